"""Where a comparison looks for the value of a setting: `lr: float = number(1e-6, at_least=0, search=Around(10))`.

A method says so where its field is; `zoplat compare --tune-trials` reads it, and `zoplat show` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Around:
    """Numbers on a logarithmic scale around the usual value, which depends on how the model is tuned.

    Attributes:
        factor: the range is [value / factor, value · factor]; above 1.
    """

    factor: float

    def at(self, value: Any) -> Between:
        """The range around a value.

        Raises:
            ValueError: the value is not a positive number, or the factor not above 1.
        """
        if type(value) not in (int, float) or not value > 0:
            raise ValueError(f"a range around {value} can't be made: it must be a positive number")
        if not self.factor > 1:
            raise ValueError(f"the factor of Around must be above 1, got {self.factor}")
        return Between(value / self.factor, value * self.factor)

    def __str__(self) -> str:
        return f"usual value / {self.factor:g} to usual value × {self.factor:g}, logarithmic"


@dataclass(frozen=True)
class Between:
    """Numbers between two bounds.

    Attributes:
        low, high: both included; low is below high.
        log: whether the scale is logarithmic; low is positive then.
    """

    low: float
    high: float
    log: bool = True

    def at(self, value: Any) -> Between:
        """Itself, whatever the usual value is.

        Raises:
            ValueError: the bounds are not such as the class asks for.
        """
        if not self.low < self.high or (self.log and not self.low > 0):
            wanted = "0 < low < high on a logarithmic scale" if self.log else "low < high"
            raise ValueError(f"a range needs {wanted}, got {self.low:g} and {self.high:g}")
        return self

    def value(self, share: float) -> float:
        """The number at a share of the range, from 0 to 1."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + (self.high - self.low) * share

    def nearest(self, value: Any) -> Any:
        """The number in the range that is nearest to a value."""
        return min(max(value, self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", logarithmic" if self.log else "")


@dataclass(frozen=True)
class OneOf:
    """Some values.

    Attributes:
        values: at least two.
    """

    values: tuple[Any, ...]

    def at(self, value: Any) -> OneOf:
        """Itself, whatever the usual value is; raises ValueError where there are fewer than two values."""
        if len(self.values) < 2:
            raise ValueError(f"a choice needs two values or more, got {list(self.values)}")
        return self

    def value(self, share: float) -> Any:
        """The value at a share of the list, from 0 to 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def nearest(self, value: Any) -> Any:
        """The value itself where it is one of these, else the first one."""
        return value if value in self.values else self.values[0]

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


Search: TypeAlias = Around | Between | OneOf
"""What a field may declare."""
