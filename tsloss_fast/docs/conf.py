"""Sphinx: the reference is made of the docstrings; the tutorial is run, and shown with output."""

from __future__ import annotations

import builtins
import re
import warnings
from typing import Any

import tsloss_fast

project = "tsloss_fast"
author = "The tsloss_fast authors"
copyright = author
release = tsloss_fast.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["tutorial", "gallery/index.rst"]
html_theme = "furo"
html_title = f"tsloss_fast {release}"
# A line of 100 characters fits.
html_theme_options = {"light_css_variables": {"code-font-size": "0.72rem"}}
html_show_sourcelink = False
html_copy_source = False

default_role = "py:obj"
add_module_names = False
python_maximum_signature_line_length = 88
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False
# A list, in which one line may speak of several.
napoleon_custom_sections = [("Attributes", "params_style")]
myst_heading_anchors = 3

# Types of other projects: their inventories are on the network, which a build has to do without.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|np|numpy|pa|pyarrow|transformers|peft|matplotlib|sklearn|yaml)\..*"),
    (r"py:.*", r"(collections\.abc|os|pathlib)\..*"),
    (
        r"py:class",
        r"(Tensor|Module|Axes|PreTrainedModel|PreTrainedTokenizerBase|Trainer\w*|NDArray|Path)",
    ),
    (r"py:(class|data|obj|exc)", r"(Any|Callable|Iterable|Iterator|Mapping|NamedTuple|Sequence)"),
    (r"py:.*", "|".join(vars(builtins))),
    (r"py:class", "optional"),  # Napoleon's word
]

sphinx_gallery_conf = {
    "examples_dirs": "tutorial",
    "gallery_dirs": "gallery",
    "filename_pattern": "tutorial",
    "run_stale_examples": True,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 3600,
    "write_computation_times": False,
    "capture_repr": (),
    "image_scrapers": ("matplotlib",),
    "reset_modules": (),
    "remove_config_comments": True,
}
# Sphinx pickles its settings and cannot know that the values above do not change.
suppress_warnings = ["config.cache"]
warnings.filterwarnings("ignore", message=".*non-interactive.*")

_PACKAGES = ("tsloss_fast", "tsloss_fast.tuning", "tsloss_fast.analysis")


def link_or_code(app: Any, env: Any, node: Any, text: Any) -> Any:
    """A link to what is documented under a longer name than the docstring uses. What stands between
    single backticks and names nothing here is code; dotted names of this package must be found."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("tsloss_fast."):
        return None
    domain = env.get_domain("py")
    names = [f"{package}.{target}" for package in _PACKAGES]
    if node["reftype"] in ("class", "exc"):
        names += [name for name in domain.objects if name.endswith(f".{target}")]
    for name in names:
        if name in domain.objects and domain.objects[name].objtype != "module":
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, node["reftype"], name, node, text
            )
    return text if node["reftype"] == "obj" else None


def shorter_types(*event: Any) -> tuple[str | None, str | None]:
    """NumPy spells its types out; Sphinx cannot read what a dataclass writes for a factory, and
    names a type variable without its types."""
    array = re.compile(r"(~?numpy\.)?ndarray\[tuple\[.*?\], (~?numpy\.)?dtype\[.*?\]\]")
    deaths = re.compile(r"~?tsloss_fast\.barcode\._bars\.Deaths")

    def shorter(text: str) -> str:
        return deaths.sub("~torch.Tensor | ~numpy.ndarray", array.sub("~numpy.ndarray", text))

    *_, signature, returned = event
    if signature is not None:
        signature = shorter(signature).replace("<factory>", "...")
    return signature, returned and shorter(returned)


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", shorter_types)
    app.connect("missing-reference", link_or_code)
