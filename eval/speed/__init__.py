"""Throughput against ceilings of the same run and against torchmetrics."""
