"""Figures of barcodes and runs for papers: functions of plain arrays, and `tsloss plot`."""

# The kinds of figure that `tsloss plot` draws. Here no import makes its help wait for matplotlib.
KINDS = {
    "barcode": "a bar from birth to death for each feature",
    "diagram": "the persistence diagram: death over birth",
    "dendrogram": "the merge tree of single linkage",
    "map": "two principal components with the minimum spanning tree",
    "components": "connected components over the scale",
    "curves": "quantities over the steps (--quantity)",
}
