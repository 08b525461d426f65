"""Presets: what is accepted expands, everything else is refused in one line that names the key."""

import gc
import hashlib
import re
import string
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps import preset
from metaphase.sweeps.preset import list_presets, load_preset, parse_preset

SMALL = """
name: small
cell: {steps: 10, sequence_length: 8}
grid: {model_size: [4, 8], seed: [0, 1]}
"""


def parse(text, *overrides):
    return parse_preset(text, overrides, default_name="default")


@pytest.mark.parametrize("name", list_presets())
def test_presets_that_come_with_the_program_expand(name):
    sweep = load_preset(name)
    assert sweep.name == name
    assert sweep.description
    assert len({cell.cell_id for cell in sweep.cells}) == len(sweep.cells) > 0


CELLS = {  # of the presets that come with the program: how many, a hash of their cell_ids
    "bursty-tiny": (33, "93fb42ebbd48f46b"),
    "figure2": (702, "c8a2dfe02e14eefd"),
    "figure2-laptop": (72, "0902a6291946652b"),
    "figure2-mlp": (702, "d0a2103dda30ef15"),
    "figure2-mlp-small": (78, "6e632274aa30f150"),
    "figure2-mlp-tiny": (108, "b24b4d459a6ebb01"),
    "figure2-small": (78, "b191d2c4e4d21d5b"),
    "figure2-tiny": (108, "a25a6d67ca132413"),
    "improvement": (130, "234b75e7c719b394"),
    "improvement-small": (65, "aeef3804e0939aae"),
    "improvement-tiny": (75, "e8fe4568fe363f1b"),
    "interventions": (54, "164278b71a210550"),
    "interventions-small": (45, "2ef32f5b852bd564"),
    "interventions-tiny": (48, "9fb6c7e0edd0f0af"),
    "markov": (20, "4b17138edc03f244"),
    "markov-small": (10, "db1a073b872c6923"),
    "markov-tiny": (10, "714178f4d2f747f9"),
    "mnist-small": (6, "3b441cbe093dbe32"),
    "quickstart": (64, "5a3c72e873cb3aa7"),
    "regression": (80, "818081a83a36f297"),
    "regression-small": (20, "be85413cda26f09d"),
    "regression-tiny": (10, "af78ffc4454160f0"),
    "state-size": (81, "8562a8f6b0a82daa"),
    "state-size-small": (57, "c65ea51eaf80a2eb"),
    "state-size-tiny": (42, "e03a9aa73c86fd08"),
    "table2": (12, "f24499d6af578af3"),
    "table2-small": (12, "aef915b81d67df8d"),
    "table2-tiny": (18, "6cd7c325b1899781"),
    "urns": (154, "d2839647dffc4f68"),
    "urns-small": (24, "23bf40c9041ff585"),
    "urns-tiny": (10, "dfb794be9ef61157"),
}


def test_presets_keep_their_cells():
    """Another digest is another grid, whose results are others."""
    found = {}
    for name in list_presets():
        ids = [cell.cell_id for cell in load_preset(name).cells]
        found[name] = (len(ids), hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16])
    assert found == CELLS


def test_quickstart_has_the_grid_its_users_are_promised():
    cells = load_preset("quickstart").cells
    assert len({c.model_size for c in cells}) >= 4
    assert len({c.num_tasks for c in cells}) >= 7
    assert len({c.seed for c in cells}) >= 2


def test_expansion_is_the_product_of_the_axes_over_the_fixed_settings():
    sweep = parse(SMALL)
    assert [(c.model_size, c.seed) for c in sweep.cells] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    assert {(c.steps, c.sequence_length) for c in sweep.cells} == {(10, 8)}


def test_a_list_of_grids_is_their_union():
    sweep = parse("""
cell: {steps: 10, batch_size: 8, architecture: transformer}
grid:
- {batch_size: [4, 8], seed: [0, 1]}
- {learning_rate: [0.1, 0.001], seed: [1]}  # 0.001 is the default: given already
- {architecture: [lstm], model_size: [7]}
""")
    assert [(c.architecture, c.batch_size, c.seed, c.learning_rate) for c in sweep.cells] == [
        *(("transformer", b, s, 0.001) for b in (4, 8) for s in (0, 1)),
        ("transformer", 8, 1, 0.1),
        ("lstm", 8, 0, 0.001),
    ]
    assert sweep.axes == ("batch_size", "seed", "learning_rate", "architecture", "model_size")
    assert parse(yaml.safe_dump(sweep.settings)) == sweep


def test_overrides_reach_every_grid_of_a_list():
    text = "grid: [{seed: [0, 1]}, {seed: [2], steps: [3, 4]}]"
    assert [(c.seed, c.steps) for c in parse(text, "seed=7", "steps=5").cells] == [(7, 5)]
    steps = {(c.seed, c.steps) for c in parse(text, "steps=[5, 6]").cells}
    assert steps == {(0, 5), (0, 6), (1, 5), (1, 6), (2, 5), (2, 6)}


def test_a_preset_without_grid_is_one_cell():
    assert parse("cell: {steps: 10}").cells == (Cell(steps=10),)
    assert parse("cell: {steps: 10}").name == "default"


def test_resolved_settings_give_the_same_cells_again():
    sweep = parse(SMALL, "seed=3", "num_tasks=[1, 2]", "name=other", "unseen_datasets=[MNIST]")
    again = parse(yaml.safe_dump(sweep.settings))
    assert again == sweep


def test_overrides_fix_make_and_replace_axes():
    assert {c.seed for c in parse(SMALL, "seed=7").cells} == {7}
    assert {c.steps for c in parse(SMALL, "steps=[5, 6]").cells} == {5, 6}
    assert {c.seed for c in parse(SMALL, "seed=[5, 6, 7]").cells} == {5, 6, 7}
    assert parse(SMALL, "learning_rate=1e-4").cells[0].learning_rate == 1e-4
    assert parse(SMALL, "name=other").name == "other"
    listed = parse(SMALL, "unseen_datasets=[MNIST, KMNIST]", "num_classes=5")
    assert {c.unseen_datasets for c in listed.cells} == {("MNIST", "KMNIST")}
    axis = parse(SMALL, "unseen_datasets=[[], [MNIST]]")
    assert {c.unseen_datasets for c in axis.cells} == {(), ("MNIST",)}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "expected keys"),
        ("[1, 2]", "expected keys"),
        ("cell: {steps: 10", "not valid YAML"),
        ("cell: {steps: 2001-99-99}", "steps: '2001-99-99' is not a whole number"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("cells: {}", "'cells': unknown key (did you mean cell?)"),
        ("cell: 3", "cell: 3 is not a mapping"),
        ("grid: [1]", "grid: 1 is not a mapping"),
        ("grid: []", "grid: the list is empty; give at least one grid"),
        ("grid: [{seed: [0]}, {seed: 1}]", "grid: seed: 1 is not a list"),
        ("grid: [{sed: [0]}]", "'sed': unknown key (did you mean seed?)"),
        ("cell: {model_sise: 3}", "'model_sise': unknown key (did you mean model_size?)"),
        ("grid: {tasks: [3]}", "'tasks': unknown key"),
        ("grid: {on: [3]}", "'on': unknown key"),
        ("grid: {seed: 3}", "grid: seed: 3 is not a list"),
        ("grid: {seed: []}", "grid: seed: the list is empty"),
        ("grid: {seed: [1, 1]}", "grid: seed: 1 is given twice"),
        ("grid: {learning_rate: [1e-3, 0.001]}", "learning_rate: 0.001 is given twice"),
        (
            "grid: {identity_share: [0], identity_steps: [1, 2]}",
            "two points give the same cell; the second is identity_share=0, identity_steps=2; "
            "identity_steps has no effect: identity_share is 0",
        ),
        (
            "cell: {task_family: noisy_items}\ngrid: {seed: [0, 1], label_noise: [0, 0.1]}",
            "is seed=0, label_noise=0.1; label_noise has no effect: noisy_items doesn't use it",
        ),
        ("grid: {seed: [0], seed: [1]}", "'seed': given twice"),
        ("cell: {seed: 1}\ngrid: {seed: [1]}", "seed: both in cell and in grid"),
        ("cell: {steps: 0}", "steps: 0 is out of range"),
        ("cell: {steps: many}", "steps: 'many' is not a whole number"),
        ("cell: {steps: true}", "steps: True is not a whole number"),
        ("cell: {steps: {a: 1}}", "steps: {'a': 1} is not a plain value"),
        ("cell: {learning_rate: .nan}", "learning_rate: nan is out of range"),
        ("cell: {dataset: digit}", "dataset: 'digit' is not one of"),
        ("cell: {num_classes: 11}", "num_classes: 11 is out of range"),
        ("cell: {unseen_datasets: [3]}", "unseen_datasets"),
        ("grid: {unseen_datasets: [MNIST]}", "'MNIST' is not a list"),
        ("grid: {num_heads: [2, 3]}", "(at the grid point num_heads=3)"),
        ("grid: {seed: [1], model_size: [31]}", "(at the grid point seed=1, model_size=31)"),
        ("name: ../up", "name: '../up' can't name a sweep"),
        ("name: .hidden", "name: '.hidden' can't name a sweep"),
        ("name: 3", "name: 3 can't name a sweep"),
        ("name: ''", "name: '' can't name a sweep"),
        ("description: [1]", "description: [1] is not a text"),
        ('description: "\\e[31m"', "can't be printed"),
        ("base: s3://KEY:SE/CRET@bucket/x.yaml", "credentials"),
        ("cell: {learning_rate: -0.0}", "learning_rate: 0.0 is out of range; allowed: above 0"),
        ("cell: {learning_rate: .inf}", "allowed: above 0, finite"),
        ("cell: {adam_beta1: 1}", "allowed: 0 to below 1"),
        ("cell: {steps: -0.0}", "write 0"),
        ("cell: {steps: 0x" + "f" * 5000 + "}", "steps: a whole number beyond 64 bits"),
        ("cell: {steps: " + "9" * 5000 + "}", "steps: a whole number beyond 64 bits"),
        ("cell: {steps: " + "[" * 5000 + "}", "not valid YAML"),
        ('cell: {dataset: "a\\nb"}', "dataset: 'a\\nb' is not a plain value"),
        (
            f"grid: {{seed: {list(range(2000))}, num_tasks: {list(range(1, 1001))}}}",
            "grid: 2e+06 cells are too many",
        ),
    ],
)
def test_mistakes_get_one_line_that_names_the_key(text, names):
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert names in str(error.value)
    assert "\n" not in str(error.value)


def test_nested_aliases_are_refused_without_being_expanded():
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )
    with pytest.raises(ConfigError, match="unknown key"):
        parse(bomb)
    keys = ["seed", "steps", "num_tasks", "dataset", *preset.CELL_KEYS]
    lines = [f"  {keys[0]}: &a0 [x, x]"]
    lines += [f"  k{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(ConfigError):
        parse("cell:\n" + "\n".join(lines))
    with pytest.raises(ConfigError, match="not a plain value"):
        parse(
            "cell:\n  unseen_datasets:\n  - &a [x]\n"
            + "".join(f"  - &b{i} [*{'a' if i == 0 else f'b{i - 1}'}]\n" for i in range(30))
        )


@pytest.mark.parametrize(
    ("said", "key", "meant"),
    [
        ("010", "steps", 10),
        ("0x10", "steps", 16),
        ("0o10", "steps", 8),
        ("+3", "steps", 3),
        ("1e-3", "learning_rate", 1e-3),
        ("1E+2", "learning_rate", 100.0),
        ("5.", "learning_rate", 5.0),
        ("-0.0", "identity_share", 0.0),
        ("true", "grayscale", True),
        ("1e3", "steps", "steps: 1000.0 is not a whole number; write 1000"),
        ("1:32", "steps", "steps: '1:32' is not a whole number"),
        ("1:32", "learning_rate", "learning_rate: '1:32' is not a number"),
        ("1_000", "steps", "steps: '1_000' is not a whole number"),
        ("1_000", "learning_rate", "learning_rate: '1_000' is not a number"),
        ("0b11", "steps", "steps: '0b11' is not a whole number"),
        ("'7'", "steps", "steps: '7' is not a whole number"),
        ("2024-01-02", "steps", "steps: '2024-01-02' is not a whole number"),
        ("nan", "learning_rate", "learning_rate: 'nan' is not a number"),
        ("yes", "grayscale", "grayscale: 'yes' is not true or false"),
        ("off", "stop_when_decided", "stop_when_decided: 'off' is not true or false"),
    ],
)
def test_numbers_are_what_they_look_like(said, key, meant):
    """As YAML 1.2 reads them; 1.1 makes 8 of 010 and 92 of 1:32. Presets, axes and --set alike."""
    ways = (
        lambda: parse(f"cell: {{{key}: {said}}}"),
        lambda: parse(f"grid: {{{key}: [{said}]}}"),
        lambda: parse("cell: {}", f"{key}={said}"),
        lambda: parse("cell: {}", f"{key}=[{said}]"),
    )
    for way in ways:
        if isinstance(meant, str):
            with pytest.raises(ConfigError, match=f"^(preset: )?{re.escape(meant)}"):
                way()
        else:
            (cell,) = way().cells
            assert repr(getattr(cell, key)) == repr(meant)
            assert cell.cell_id == Cell(**{key: meant}).cell_id


@pytest.mark.parametrize("name", ["1e3", "0o17", "2024-01-02", "yes", "1_0", "0x1F", "null", "010"])
def test_names_that_look_like_numbers_stay_as_they_are(name):
    sweep = parse(f"name: '{name}'\ndescription: '{name}'\ncell: {{steps: 10}}")
    assert (sweep.name, sweep.description) == (name, name)
    assert parse(preset.dump_settings(sweep.settings)) == sweep
    assert yaml.safe_load(preset.dump_settings(sweep.settings)) == sweep.settings
    if name != "null":
        assert parse("cell: {steps: 10}", f"name={name}").name == name


def test_merge_keys_are_read():
    cells = parse("cell: &c {steps: 7, seed: 1}\ngrid: [{<<: {seed: [3]}, model_size: [8]}]").cells
    assert [(c.steps, c.seed, c.model_size) for c in cells] == [(7, 3, 8)]


def merges(levels, width=10):
    lines = ["m0: &m0 {steps: 1, seed: 2}"]
    for i in range(1, levels):
        merged = ",".join([f"*m{i - 1}"] * width)
        lines.append(f"m{i}: &m{i} {{<<: [{merged}], batch_size: {i}}}")
    return "\n".join(lines)


AXIS = list(range(1, 1001))
HUGE = 1_000_000_000
WEAPONS = {
    "merge keys": (merges(60), "unknown key"),
    "merge keys of a cell": (f"{merges(60)}\ncell: {{<<: *m59}}", "unknown key"),
    "wide merge keys": (
        "\n".join(
            (
                f"a0: &a0 {{{', '.join(f'k{i}: 1' for i in range(2000))}}}",
                *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 2000)),
            )
        ),
        "merge keys bring more than 50,000 values",
    ),
    "merge keys of one mapping": (
        f"a: &a {{{', '.join(f'k{i}: 1' for i in range(2000))}}}\nb: {{<<: [{'*a, ' * 10_000}]}}",
        "merge keys bring more than 50,000 values",
    ),
    "a union of one grid": (
        "grid:\n- &g {seed: [1, 2, 3], num_tasks: [1, 2, 3]}\n" + "- *g\n" * 40_000,
        "one grid twice",
    ),
    "digits": ("cell: {seed: " + "1" * 5000 + "}", "seed: a whole number beyond 64 bits"),
    "unions": (
        f"grid:\n- {{seed: &s {AXIS}, num_tasks: &n {AXIS[:999]}}}\n"
        + "- {seed: *s, num_tasks: *n, steps: [1]}\n" * 9,
        "cells are too many",
    ),
    "axes without end": (
        "grid:\n  seed: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
        + "".join(f"  {key}: *a\n" for key in preset.CELL_KEYS if key != "seed"),
        "cells are too many",
    ),
    "the last value of a large grid": (
        f"grid: {{seed: {AXIS}, num_tasks: {[*AXIS[:998], 0]}}}",
        "num_tasks: 0 is out of range",
    ),
    "many values": ("a: [" + "[]," * 300_000 + "]", "values"),
    "deep lists": ("[" * 900_000, "deep"),
    "deep blocks": ("- " * 400_000, "deep"),
    "deep mappings": ("{a: " * 200_000, "deep"),
    **{
        f"{key}: {HUGE}": (f"cell: {{{key}: {HUGE}, warmup_steps: 1}}", f"{key}: {HUGE} ")
        for key in (
            *("num_layers", "model_size", "num_heads", "key_size", "mlp_ratio", "image_size"),
            *("batch_size", "sequence_length", "eval_sequences", "num_classes"),
        )
    },
    "weights": ("cell: {model_size: 65536, num_layers: 1000, key_size: 2}", "allowed: 1e+12"),
    "numbers of a step": ("cell: {batch_size: 1000000, num_layers: 900}", "allowed: 1e+12"),
    "projections": ("cell: {image_size: 256, batch_size: 10000}", "allowed: 1e+12"),
    "evaluations": ("cell: {steps: 2000000000, eval_every: 1}", "eval_every: 1 makes 2000000000"),
    "a dataset twice": ("cell: {unseen_datasets: [random, random]}", "names a dataset twice"),
}


@pytest.mark.parametrize("weapon", WEAPONS)
def test_what_would_take_long_is_refused_within_a_second(weapon, tmp_path):
    text, why = WEAPONS[weapon]
    gc.collect()  # of other tests' objects, of which there are many, isn't what is timed
    before = time.process_time()
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert time.process_time() - before < 3.0  # 0.1 alone, on the slowest machine seen
    assert why in str(error.value)
    assert len(str(error.value)) < 1500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("seed", "expected key=value"),
        ("sede=3", "'sede': unknown key (did you mean seed?)"),
        ("seed=[1", "--set seed: not valid YAML"),
        ("seed=[]", "seed: the list is empty"),
        ("name=a/b", "name: 'a/b' can't name a sweep"),
        ("grid={}", "'grid': unknown key"),
    ],
)
def test_mistaken_overrides(override, names):
    with pytest.raises(ConfigError) as error:
        parse(SMALL, override)
    assert names in str(error.value)
    assert "\n" not in str(error.value)


def test_finding_presets(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cell: {steps: 10}")
    assert load_preset(str(path)).name == "mine"
    with pytest.raises(ConfigError, match=r"'quikstart' is not one of .* \(did you mean quick"):
        load_preset("quikstart")
    with pytest.raises(ConfigError, match=r"can.t read ./nowhere.yaml: No such file"):
        load_preset("./nowhere.yaml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_preset(str(path))
    path.write_bytes(b"#" * (preset.MAX_PRESET_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_preset(str(path))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["MNIST", "digits", "shifted", "3e-4"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
keys = st.sampled_from(preset.CELL_KEYS) | st.text(string.ascii_letters, max_size=5)
presets = st.fixed_dictionaries(
    {},
    optional={
        "name": values,
        "description": values,
        "cell": st.dictionaries(keys, values, max_size=4) | values,
        "grid": st.dictionaries(keys, st.lists(values, max_size=3) | values, max_size=3) | values,
    },
)


def expand_or_refuse(text, *overrides):
    """Anything raised but a ConfigError of one line fails the test."""
    refusal = "in one line"
    try:
        assert parse(text, *overrides).cells
    except ConfigError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert 0 < len(refusal) < 1500


@settings(max_examples=300, deadline=None)
@given(presets, st.lists(st.builds("{}={}".format, keys, values), max_size=2))
def test_any_preset_expands_or_is_refused_in_one_line(preset, overrides):
    expand_or_refuse(yaml.safe_dump(preset, allow_unicode=True), *overrides)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_expands_or_is_refused_in_one_line(text):
    expand_or_refuse(text)


# --- presets on top of others ---


def on_base(folder, text, base=SMALL, *overrides):
    (folder / "below.yaml").write_text(base)
    (folder / "top.yaml").write_text(text)
    return load_preset(str(folder / "top.yaml"), overrides)


def test_what_a_preset_says_goes_before_what_its_base_says(tmp_path):
    sweep = on_base(tmp_path, "base: ./below.yaml\ncell: {steps: 20, batch_size: 8}")
    assert sweep.name == "top"  # the base's name and description are its own
    assert sweep.description == ""
    below = parse(SMALL)
    assert sweep.cells == tuple(
        Cell(**{**cell.to_dict(), "steps": 20, "batch_size": 8}) for cell in below.cells
    )
    assert parse(yaml.safe_dump(sweep.settings)) == sweep  # which needs no base
    other = on_base(tmp_path, "base: ./below.yaml\ngrid: {steps: [5, 6]}")
    assert other.axes == ("steps",)
    assert [(c.steps, c.sequence_length) for c in other.cells] == [(5, 8), (6, 8)]
    fixed = on_base(tmp_path, "base: ./below.yaml\ncell: {seed: 7}")
    assert [(c.model_size, c.seed) for c in fixed.cells] == [(4, 7), (8, 7)]
    back = on_base(tmp_path, "base: ./below.yaml\ncell: {steps: null}")
    assert {c.steps for c in back.cells} == {Cell().steps}
    listed = on_base(
        tmp_path, "base: ./below.yaml\ncell: {steps: 9}\ngrid: [{steps: [5]}, {seed: [3]}]"
    )
    assert [(c.steps, c.seed, c.sequence_length) for c in listed.cells] == [(5, 0, 8), (9, 3, 8)]
    assert {c.steps for c in on_base(tmp_path, "base: ./below.yaml", SMALL, "steps=3").cells} == {3}


IDLE = """
name: idle
cell:
  task_family: linear_regression
  architecture: lstm
  label_noise: 0.5
  zipf_exponent: 0      # what its cells have all the same
  unseen_datasets: [MNIST]
  learning_rate_end: 0.1
  position_encoding: none
grid:
  seed: [0, 1]
  in_weights: [true]
"""


def test_what_has_no_effect_in_any_cell_is_told():
    sweep = parse(IDLE)
    assert sweep.without_effect == (
        "label_noise: 0.5 has no effect: linear_regression doesn't use it",
        "unseen_datasets: [MNIST] has no effect: linear_regression doesn't use it",
        "learning_rate_end: 0.1 has no effect: learning_rate_schedule is constant",
        "in_weights: true has no effect: linear_regression doesn't use it",
    )
    # One dictionary serves several architectures, families and schedules.
    images = ("task_family=projected_images", "learning_rate_schedule=[constant, cosine]")
    assert parse(IDLE, *images).without_effect == ()
    heads = parse(IDLE, *images, "num_heads=4", "burst_classes=3").without_effect
    assert heads == (
        "num_heads: 4 has no effect: lstm doesn't use it",
        "burst_classes: 3 has no effect: burstiness is 0",
    )
    both = "architecture=[lstm, transformer]"
    assert parse(IDLE, *images, "num_heads=4", both).without_effect == ()
    several = parse("cell: {num_heads: 4}\ngrid: [{architecture: [lstm]}, {architecture: [lstm]}]")
    assert several.without_effect == ("num_heads: 4 has no effect: lstm doesn't use it",)
    families = "[{task_family: [noisy_items]}, {task_family: [linear_regression]}]"
    assert parse("cell: {noise_variance: 0.5}\ngrid: " + families).without_effect == ()


def test_what_only_a_base_says_may_have_no_effect(tmp_path):
    below = IDLE + "  burst_classes: [3]\n"
    assert on_base(tmp_path, "base: ./below.yaml\ncell: {steps: 20}", below).without_effect == ()
    said = on_base(tmp_path, "base: ./below.yaml\ncell: {label_noise: 0.25}", below, "steps=9")
    [told] = said.without_effect
    assert told == "label_noise: 0.25 has no effect: linear_regression doesn't use it"
    assert all(load_preset(name).without_effect == () for name in list_presets())


def test_bases_have_bases(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "lowest.yaml").write_text("base: quickstart\ncell: {steps: 7}")
    sweep = on_base(tmp_path, "base: ./below.yaml\nname: mine", "base: in/lowest.yaml")
    assert sweep.name == "mine"
    assert [c.to_dict() | {"steps": 1000} for c in sweep.cells] == [
        c.to_dict() for c in load_preset("quickstart").cells
    ]


@pytest.mark.parametrize(
    ("text", "base", "message"),
    [
        ("base: figure3", "", "top.yaml: base: 'figure3' is not one of .*did you mean figure2"),
        ("base: 3", "", "top.yaml: base: 3 is not the name or the path of a preset"),
        ("base: null", "", "top.yaml: base: None is not the name"),
        ("base: [figure2]", "", "top.yaml: base: \\['figure2'\\] is not the name"),
        ('base: "a\\0/b"', "", "is not the name or the path"),
        ("base: ./none.yaml", "", "preset: can't read .*none.yaml: No such file"),
        ("base: ./top.yaml", "", "top.yaml: base: './top.yaml' goes in a circle"),
        ("base: ./below.yaml", "base: ./top.yaml", "below.yaml: base: './top.yaml' goes in a circ"),
        ("base: below.yaml", "cell: {stepz: 1}", "below.yaml: cell: 'stepz': unknown key"),
        ("base: ~nobody/x.yaml", "", "preset: can't read"),
    ],
)
def test_a_base_that_cant_be_is_one_line(tmp_path, text, base, message):
    with pytest.raises(ConfigError, match=message) as error:
        on_base(tmp_path, text, base)
    assert "\n" not in str(error.value)


def test_many_bases_are_refused(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.yaml").write_text(f"base: ./{i + 1}.yaml")
    with pytest.raises(ConfigError, match="is the base of more than 20 presets"):
        load_preset(str(tmp_path / "0.yaml"))


def test_a_setting_of_a_family_that_isnt_there_names_it():
    with pytest.raises(ConfigError, match=r"symbols: a setting of balls_and_urns, named nowhere"):
        parse("cell: {task_family: linear_regression, symbols: 4}\ngrid: {seed: [0]}")
