"""Systems whose populations move as theory says: to test on, and to compare with."""

__all__: list[str] = []
