"""One cloud over many processes: measured on this machine, and modelled for more."""
