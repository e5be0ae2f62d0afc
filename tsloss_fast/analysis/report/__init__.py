"""The HTML page of `tsloss report`: what a run did, in figures and in plain sentences."""
