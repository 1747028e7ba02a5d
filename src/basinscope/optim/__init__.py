"""Training under Gaussian weight noise, around any optimiser of torch."""
