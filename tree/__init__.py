"""What a quadtree is made of: the detail of an image, regions painted by hand, and values painted on grids.

May import utils only, and of packages torch alone.
"""
