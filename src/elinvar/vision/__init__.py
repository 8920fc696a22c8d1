"""MASt3R and DUNE: from photographs to points, matches and cameras."""
