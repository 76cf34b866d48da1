"""What it costs, as ratios against named references that are measured in the same run."""
