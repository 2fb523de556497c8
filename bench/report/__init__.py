"""Generate tables, figures and a recommendation from recorded benchmarks and a manifest."""
