"""What the keywords of `ZerothOrder` and of its groups mean: one method, with a rule for all groups or for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from zoplat.config.layers import changed_settings, resolve
from zoplat.config.parts import Table, describe, law_of, part_from, part_kind, with_changes
from zoplat.config.run_config import RunConfig
from zoplat.config.usual import value_of
from zoplat.core.blocks import Part
from zoplat.core.errors import ZoplatError
from zoplat.core.estimator import Estimator
from zoplat.core.fields import FieldError
from zoplat.core.sampler import Sampler
from zoplat.space.part_of_space import Drawn
from zoplat_devices.optimizer.groups import ByGroup, Member

OWN = ("lr", "eps", "weight_decay", "sampler")
"""Settings that every group may have for itself."""
INSTEAD = {
    "gradient": "With backward() there are torch.optim.AdamW and torch.optim.SGD; without it, mezo and lozo",
    "row losses": "mezo, fzoo and lozo do without",
    "jvp": "mezo and lozo do without",
    "input norms": "options={'scores': 'weights'} does without where the method has such a field",
    "input directions": "mezo and lozo do without",
}
"""What a closure can't give → what to use."""


class Values(NamedTuple):
    """The settings of one group; None for what the method does not have, or has as it is."""

    lr: float | None
    eps: float | None
    decay: float | None
    law: Sampler | None


@dataclass(frozen=True)
class Method:
    """A method as the keywords of the optimizer describe it.

    Attributes:
        config: settings of a run that only the steps depend on; its estimator has the defaults of all groups.
    """

    config: RunConfig

    @classmethod
    def of(cls, keywords: Mapping[str, Any], steps: int | None) -> Method:
        """The method of some keywords, those of `zoplat.run`.

        Args:
            keywords: estimator, sampler, step_rule, lr, eps, queries, options, seed.
            steps: of the whole run, for parts that must know.

        Raises:
            ZoplatError: an unknown name or field, a wrong value, or a method that needs more than losses.
        """
        asked = {**keywords, "device": "cpu", "model": "a module", "steps": steps or 1, "evaluate_every": 10**12}
        config = resolve(asked)
        estimator, name = config.estimator, config.estimator_name
        if more := sorted(estimator.asks - {"losses"}):
            raise ZoplatError(
                f"'{name}' asks for {' and '.join(more)}, and a closure only gives losses. {INSTEAD[more[0]]}."
            )
        if steps is None and (estimator.has_horizon or estimator.rule.has_horizon):
            raise ZoplatError(
                f"'{name}' as it is set must know how long the run is. Give steps=…, or leave the schedule to "
                "torch.optim.lr_scheduler."
            )
        return cls(config if steps else replace(config, steps=None, max_seconds=float("inf")))

    @property
    def name(self) -> str:
        """Its registered name."""
        return self.config.estimator_name

    def seeded(self, seed: int) -> Method:
        """The same method with another seed."""
        return Method(replace(self.config, seed=seed))

    def defaults(self) -> dict[str, Any]:
        """The defaults of a group."""
        estimator = self.config.estimator
        lr, eps = value_of(estimator, "lr"), value_of(estimator, "eps")
        return {"lr": lr, "eps": eps, "weight_decay": decay_of(estimator), "sampler": None}

    def values(self, group: Mapping[str, Any]) -> Values:
        """The settings of a group, as plain numbers.

        Raises:
            ZoplatError: it has one that the method does not have.
        """
        known = self.defaults()
        numbers = {name: None if group[name] is None else float(group[name]) for name in OWN[:3]}
        for name, value in numbers.items():
            if value and known[name] is None:
                raise ZoplatError(
                    f"A parameter group has {name}={value}, and '{self.name}' has no such setting. Leave it out."
                )
        law = None if group["sampler"] is None else part_from("sampler", group["sampler"])
        if law is not None and law_of(self.config.estimator) is None:
            raise ZoplatError(
                f"A parameter group has a sampler of its own, and '{self.name}' draws nothing. Leave it out."
            )
        return Values(numbers["lr"], numbers["eps"], numbers["weight_decay"], law)

    def estimator(self, values: Values) -> Estimator[Any]:
        """The method with the settings of a group in place of its own."""
        changes: Table = {"rule": {}}
        known = self.defaults()
        if values.lr is not None and values.lr != known["lr"]:
            changes["rule"]["lr"] = values.lr
        if values.decay is not None and values.decay != known["weight_decay"]:
            changes["rule"]["decay"] = values.decay
        if values.eps is not None and values.eps != known["eps"]:
            changes["eps"] = values.eps
        if values.law is not None and values.law != getattr(self.config.estimator, "sampler", None):
            changes["sampler"] = describe("sampler", values.law)
        changes = {name: change for name, change in changes.items() if change}
        return with_changes(self.config.estimator, changes, "estimator") if changes else self.config.estimator

    def by_group(self, all_values: Sequence[Values], parts: Sequence[Part]) -> tuple[Estimator[Any], list[Drawn]]:
        """(The method with a rule for every group, how each group is probed); draws are empty where all are alike.

        The method's own ε is that of the first group.

        Raises:
            ZoplatError: the method can't have groups with settings of their own, or not with an ε of their own.
        """
        first = all_values[0]._replace(law=None)
        estimator, own = self.estimator(first), law_of(self.config.estimator)
        drawn = [
            Drawn(part, None if values.law == own else values.law, (values.eps or 1.0) / (first.eps or 1.0))
            for values, part in zip(all_values, parts, strict=True)
        ]
        if estimator.has_one_radius and any(one.radius != 1.0 for one in drawn):
            raise ZoplatError(
                f"The parameter groups have different eps, and '{self.name}' must probe all weights at one. Give all "
                "groups the same eps, or use another method, such as mezo."
            )
        members = tuple(
            Member(one.part, self.estimator(values._replace(law=None)).rule, one.law, one.radius)
            for values, one in zip(all_values, drawn, strict=True)
        )
        are_alike = all(one.law is None and one.radius == 1.0 for one in drawn)
        try:
            whole: Estimator[Any] = replace(estimator, rule=ByGroup(members))  # type: ignore[type-var]  # a dataclass
        except FieldError:
            raise ZoplatError(
                f"'{self.name}' uses the step size of its rule itself, so that all parameter groups must have the same "
                "lr, eps, weight_decay and sampler. Use one group, or another method."
            ) from None
        return whole, [] if are_alike else drawn

    def table(self) -> Table:
        """The method with all its settings but those of the groups, as plain values."""
        return _without_own(describe("estimator", self.config.estimator, self.name))

    def check_saved(self, saved: Table) -> None:
        """Raise ZoplatError, which lists what differs, where a saved method is another one."""
        if lines := changed_settings(saved, self.table()):
            raise ZoplatError(
                "The state was saved by an optimizer with other settings (saved → here): "
                + "; ".join(lines)
                + ". Make the optimizer with the same ones."
            )


def sampler_table(sampler: Any) -> Table | None:
    """A sampler of a group, given as a name, a table or a value, as a table of plain values.

    Raises:
        ZoplatError: there is no such sampler, or it has a field that is wrong.
    """
    if sampler is None:
        return None
    return describe("sampler", sampler if part_kind(sampler) else part_from("sampler", sampler))


def decay_of(estimator: Estimator[Any]) -> float | None:
    """The weight decay λ of a method's rule; None where it has none."""
    rule: Any = estimator.rule
    found: float | None = getattr(rule, "decay", getattr(getattr(rule, "schedule", None), "decay", None))
    return found


def _without_own(table: Table) -> Table:
    """A table of a method without what every group has for itself."""
    rule = {name: value for name, value in table.get("rule", {}).items() if name not in ("lr", "decay")}
    if isinstance(rule.get("schedule"), dict):
        rule["schedule"] = {name: value for name, value in rule["schedule"].items() if name not in ("lr", "decay")}
    return {**{name: value for name, value in table.items() if name != "eps"}, "rule": rule}
