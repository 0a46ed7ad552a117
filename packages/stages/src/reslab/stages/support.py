"""Helpers for packages that are built on `reslab.stages`: frozen data, tables, paths, near names, lazy facades.

Notebooks do without them, so `reslab.stages` does not list them. The profiler, residency and ltx2 share them, so that
an error suggests a name, a table escapes a text and a dataclass compares a frame in one way.

    from reslab.stages.support import FrozenDict, freeze, html_table, nearest

>>> from reslab.stages.support import html_table, nearest
>>> nearest("denoize", ["vae", "denoise"])
"did you mean 'denoise'?"

- frozen data: `FrozenDict`, `freeze`, `Compared` (`_frozen`);
- choices that carry a sentence: `Described` (`_described`);
- tables for notebooks: `html_table`, `Cell`, `Markup` (`_html_table`);
- errors and files: `nearest` (`_names`), `output_path` (`_output_path`);
- attributes that are changed for a while: `shadowed` (`_watch`), `keep_attributes` (`_retry`);
- modules inside a component that are called from outside: `is_seen`, `parts_with_weights` (`_parts`);
- the facade of a package with costly imports: `lazy_names` (`_lazy_names`).
"""

from reslab.stages._described import Described
from reslab.stages._frozen import Compared, FrozenDict, freeze
from reslab.stages._html_table import Cell, Markup, html_table
from reslab.stages._lazy_names import lazy_names
from reslab.stages._names import nearest
from reslab.stages._output_path import output_path
from reslab.stages._parts import is_seen, parts_with_weights
from reslab.stages._retry import keep_attributes
from reslab.stages._watch import shadowed

__all__ = [
    "Cell",
    "Compared",
    "Described",
    "FrozenDict",
    "Markup",
    "freeze",
    "html_table",
    "is_seen",
    "keep_attributes",
    "lazy_names",
    "nearest",
    "output_path",
    "parts_with_weights",
    "shadowed",
]


def __dir__() -> list[str]:
    return __all__
