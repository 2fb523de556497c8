"""From recorded benchmarks and a bundle's manifest to a report: tables, figures, a recommendation."""
