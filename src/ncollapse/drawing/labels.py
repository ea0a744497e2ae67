"""Words that axes, controls and sentences share."""

__all__ = ["POSITIONS"]

POSITIONS = {
    "projection": "projection on the chord",
    "index": "block index l/L",
    "arclength": "arc length",
    "ratio": "ratio of distances to both ends",
    "distance": "distance from the first layer",
}
