"""How far one set of samples, or one score, is from another: one metric a file.

A metric is a function from arrays to a number (or to a small frozen dataclass of numbers). None of them judges: what a
distance means against the seed noise floor is the business of `calibration.gate`.
"""

__all__: list[str] = []
