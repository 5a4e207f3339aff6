"""Values of the nodes' required inputs for small pictures; Quadtree Diffusion has its defaults."""

VISUALIZER = {
    "content_threshold": 25.0,
    "min_tile_size": 16,
    "max_tile_size": 64,
    "min_denoise": 0.0,
    "max_denoise": 1.0,
    "line_thickness": 1,
}
DIFFUSION = {
    "method": "Shifted Feather",
    "tile_size": 0,
    "tile_overlap": 64,
    "tile_batch_size": 4,
    "schedule": "hold",
    "feather": 32,
    "skip_diffusion_below": 0,
}
