"""From recorded benchmarks and a manifest to tables, figures and a recommendation."""
