"""How recorded topology goes with performance: rank correlations over steps and runs."""
