"""devtools: pins, what ComfyUI asks for, and when packages are installed again."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from quadtree_pack.devtools import packages, paths, requirements, running, setup

DEV = paths.ROOT / "dev.py"


PYTHONS = [(3, minor) for minor in range(10, 15)]


def applies(line: str, python: tuple[int, int]) -> bool:
    marker = line.partition(";")[2].strip()
    if "python_version" not in marker:  # none, or one about the system
        return True
    operator, version = re.fullmatch(r'python_version (>=|<) "([\d.]+)"', marker).groups()
    at_least = python >= tuple(int(number) for number in version.split("."))
    return at_least if operator == ">=" else not at_least


@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: "{}.{}".format(*python))
def test_every_development_requirement_has_one_exact_pin_on_every_python(python):
    pins = [
        pin
        for pin in requirements.read_requirements(paths.REQUIREMENTS)
        if applies(pin.line, python)
    ]
    names = [pin.name for pin in pins]
    assert all(re.fullmatch(r"==\d+(\.\d+)*", pin.clauses) for pin in pins)
    assert sorted(set(names)) == sorted(names)
    assert set(names) == {pin.name for pin in requirements.read_requirements(paths.REQUIREMENTS)}


def test_what_comfyui_pins_itself_is_not_pinned_here():
    pins = {pin.name for pin in requirements.read_requirements(paths.REQUIREMENTS)} - set(
        packages.TOOLS
    )
    assert not [name for name in pins if name.startswith("comfy")]


VERSIONS = st.lists(st.sampled_from([0, 1, 2, 10]), min_size=2, max_size=4).map(
    lambda numbers: ".".join(map(str, numbers))
)


CLAUSES = st.builds(
    str.__add__, st.sampled_from(["==", "!=", ">=", "<=", ">", "<", "~="]), VERSIONS
)


@example(["~=1.4.2"], "1.4.1")
@example(["~=1.4.2"], "1.10.2")
@example([">1.2", "<1.11"], "1.10")
@given(
    st.lists(CLAUSES | VERSIONS.map("=={}.*".format) | VERSIONS.map("!={}.*".format), max_size=2),
    VERSIONS,
)
def test_version_clauses_mean_what_they_mean_to_pip(clauses, version):
    assert requirements.allows(", ".join(clauses), version) == SpecifierSet(
        ",".join(clauses)
    ).contains(version)


@pytest.mark.parametrize(
    ("theirs", "installed"),
    [
        ("", ["numpy==2.4.6", "tqdm==4.70.1"]),
        ("numpy", ["numpy==2.4.6", "tqdm==4.70.1"]),
        ("numpy>=1.25.0  # any", ["numpy==2.4.6", "tqdm==4.70.1"]),
        ("NumPy==1.26.4", ["NumPy==1.26.4", "tqdm==4.70.1"]),
        ("numpy<2,>=1.25", ["numpy<2,>=1.25", "tqdm==4.70.1"]),
        ("--pre\nnew-package==1", ["--pre", "new-package==1", "numpy==2.4.6", "tqdm==4.70.1"]),
    ],
    ids=["nothing", "left open", "allowed", "pinned", "below ours", "other lines"],
)
def test_what_comfyui_asks_for_wins_over_our_pins(project, theirs, installed):
    (project / "requirements.txt").write_text(theirs, encoding="utf-8")
    paths.REQUIREMENTS.write_text(
        "numpy==2.4.6\ntqdm==4.70.1\ntorchaudio==2.11.0\n", encoding="utf-8"
    )
    usual, alone = packages.wanted_packages(project)
    assert usual == installed
    assert alone == ["torchaudio==2.11.0"]


def test_all_pins_of_a_package_give_way_when_one_does(project):
    (project / "requirements.txt").write_text("numpy<2.3", encoding="utf-8")
    pins = 'numpy==2.4.6 ; python_version >= "3.11"\nnumpy==2.2.6 ; python_version < "3.11"\n'
    paths.REQUIREMENTS.write_text(pins, encoding="utf-8")
    assert packages.wanted_packages(project)[0] == ["numpy<2.3"]


NAMES = dict.fromkeys(name for names in packages.TOOLS.values() for name in names)
TOOLS = "".join(f"{name}==1.0\n" for name in NAMES)


def give_requirements(
    folder: Path, ours: str = TOOLS, theirs: str = "torch\n", config: str = "3.11"
) -> None:
    paths.VENV.mkdir(exist_ok=True)
    (paths.VENV / "pyvenv.cfg").write_text(config, encoding="utf-8")
    paths.REQUIREMENTS.write_text(ours, encoding="utf-8")
    (folder / "requirements.txt").write_text(theirs, encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [{"ours": TOOLS + "pytest==1.0\n"}, {"theirs": "torch==2\n"}, {"config": "3.12"}],
    ids=str,
)
def test_packages_are_installed_again_when_what_they_depend_on_changes(
    project, monkeypatch, change
):
    monkeypatch.setattr(packages, "pip", lambda *args: None)
    theirs = project / "theirs"
    theirs.mkdir()
    give_requirements(theirs)
    paths.PYTHON.parent.mkdir(parents=True)
    paths.PYTHON.touch()
    assert not packages.packages_ready(theirs)
    packages.install_packages(theirs)
    assert packages.packages_ready(theirs)
    give_requirements(theirs, **change)
    assert not packages.packages_ready(theirs)


@pytest.mark.parametrize(
    ("stop", "usable"), [(KeyboardInterrupt, False), (OSError, False), ("refused", True)], ids=str
)
def test_a_venv_whose_installation_was_cut_off_is_not_used(project, monkeypatch, stop, usable):
    """A pip that fails by itself cleans up after itself; one that is stopped does not."""
    error = running.ExpectedError if stop == "refused" else stop
    give_requirements(project)
    paths.PYTHON.parent.mkdir(parents=True)
    paths.PYTHON.touch()

    def stopped(*args):
        raise error

    monkeypatch.setattr(packages, "pip", stopped)
    with pytest.raises(error):
        packages.install_packages(project)
    assert setup.venv_ready(project) is usable
    assert not packages.packages_ready(project)


@pytest.mark.parametrize("name", packages.TOOLS)
def test_a_tool_is_installed_alone_and_again_when_its_pin_changes(project, monkeypatch, name):
    installed = []
    monkeypatch.setattr(
        packages,
        "pip",
        lambda *args: installed.append(
            sorted((paths.CACHE / "requirements.txt").read_text().split())
        ),
    )
    give_requirements(project)
    paths.PYTHON.parent.mkdir(parents=True)
    paths.PYTHON.touch()
    for _ in range(2):
        setup.set_up([packages.tool_step(name)], project)
    *others, last = packages.TOOLS[name]
    give_requirements(project, ours=TOOLS.replace(f"{last}==1.0", f"{last}==1.1"))
    setup.set_up([packages.tool_step(name)], project)
    assert installed == [
        sorted(f"{one}==1.0" for one in (*others, last)),
        sorted([*(f"{one}==1.0" for one in others), f"{last}==1.1"]),
    ]


def test_of_a_tool_with_pins_for_older_and_newer_pythons_pip_gets_both(project):
    pins = [
        'comfy-cli==1.0 ; python_version >= "3.11"',
        'comfy-cli==0.9 ; python_version < "3.11"',
    ]
    give_requirements(project, ours="\n".join(["torch==1.0", *pins]))
    assert packages.tool_lines("comfy-cli") == pins
