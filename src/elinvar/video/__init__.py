"""A deterministic render graph, and an exporter whose colours are right."""
