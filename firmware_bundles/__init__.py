"""What both sides must agree on, byte for byte: bundles, trust, wire messages and sketches.

Used by `agent` and by `control_plane`; imports neither.
"""
