"""Training: data, tasks, schedule, logs and the ablation."""
