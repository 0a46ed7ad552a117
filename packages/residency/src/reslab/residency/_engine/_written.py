"""Weights that somebody writes while they are managed, and gradients through weights that have left.

Leaving re-points, it copies nothing back; so what was written has to be noticed. Autograd counts the changes of each
parameter, and a tensor put in a weight's place lies in other memory. What goes past both, an in-place change of
`weight.data`, nobody can see. The same counters tell autograd that the memory behind a weight has been used again.

    before = marks(layout)
    written(layout, before)          # places of the parameters that are not as they were then
    outdate(layout)                  # from now on a backward pass through what they held is an error
"""

from __future__ import annotations

import torch

from reslab.residency._engine._buffers import Layout, Piece

#: The count of a parameter's changes (None in inference mode, which does not count), and where its memory is.
Mark = tuple[int | None, int]


def marks(layout: Layout) -> tuple[Mark, ...]:
    """Return a mark for each parameter as it is now."""
    return tuple(_mark(piece.parameter) for piece in layout.pieces)


def written(layout: Layout, before: tuple[Mark, ...]) -> list[int]:
    """Return the places of the parameters that were changed, or given other memory, since they were marked.

    >>> from reslab.residency._engine._buffers import lay_out
    >>> layout = lay_out([torch.nn.Parameter(torch.ones(2)) for _ in range(3)], boundary=64)
    >>> before = marks(layout)
    >>> with torch.no_grad():
    ...     _ = layout.pieces[1].parameter.mul_(2)
    >>> layout.pieces[2].parameter.data = torch.zeros(2)
    >>> written(layout, before)
    [1, 2]
    """
    pairs = zip(layout.pieces, before, strict=True)
    return [place for place, (piece, mark) in enumerate(pairs) if piece.elements and _mark(piece.parameter) != mark]


def fits(piece: Piece) -> bool:
    """Tell whether what a parameter holds now can lie in its place."""
    held = piece.parameter.data
    return (held.shape, held.dtype) == (piece.size, piece.dtype)


def outdate(layout: Layout) -> None:
    """Have autograd know that the memory behind the parameters holds something else from now on."""
    torch.autograd.graph.increment_version(
        [piece.parameter for piece in layout.pieces if not piece.parameter.is_inference()]
    )


def explain(error: BaseException) -> None:
    """Say beside autograd's error about outdated memory what it comes from here, and what to do."""
    if isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error):
        error.add_note(
            "weights that stream through slots are gone when a backward pass comes to them: place components that "
            "gradients go through as 'resident' or 'swap'"
        )


def _mark(parameter: torch.nn.Parameter) -> Mark:
    return None if parameter.is_inference() else parameter._version, parameter.data_ptr()
