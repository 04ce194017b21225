"""Differentially private diffusion models: train, sample and measure."""
