"""Figures of barcodes and runs for papers: functions of plain arrays, and `tsloss plot`."""
