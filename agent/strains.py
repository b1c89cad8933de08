"""Breed curves: what a flock of a strain weighs and eats at each age under good management, as hatched (both sexes).

Objectives of the breeders, not field averages: field flocks are usually below. ``edition`` matters: editions of the
same strain differ by 60 g at 35 days [S40]. The S numbers are those of docs/sources.md: we read the tables second-hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Strain:
    """A breed curve by day of age, day 0 first."""

    name: str
    edition: str
    weight_g: tuple[int, ...]
    feed_g: tuple[int, ...]  # eaten on that day, per bird


# Aviagen, Ross 308 / Ross 308 FF Broiler Performance Objectives 2022, as hatched, days 0 to 56 [S34, S35]
ROSS_308 = Strain(
    "ross308",
    "Aviagen 2022",
    weight_g=(
        44, 62, 81, 102, 125, 151, 181, 213, 249, 288, 330, 376, 425, 477, 533, 592, 655, 720, 789, 860, 935, 1012,
        1092, 1174, 1258, 1345, 1434, 1524, 1616, 1710, 1805, 1901, 1999, 2097, 2196, 2296, 2396, 2496, 2597, 2697,
        2798, 2898, 2998, 3097, 3197, 3295, 3393, 3490, 3586, 3681, 3776, 3869, 3961, 4052, 4142, 4230, 4318,
    ),
    feed_g=(
        0, 12, 16, 20, 24, 27, 31, 35, 39, 44, 48, 52, 57, 62, 67, 72, 77, 83, 88, 94, 100, 105, 111, 117, 122, 128,
        134, 139, 145, 150, 156, 161, 166, 171, 176, 180, 185, 189, 193, 197, 201, 204, 207, 211, 213, 216, 219,
        221, 223, 225, 227, 229, 230, 231, 233, 233, 234,
    ),
)  # fmt: skip

# Cobb-Vantress, Cobb 500 Broiler Performance & Nutrition Supplement 2022, as hatched, days 0 to 56 [S38]. The daily
# intake is derived: weight x cumulative feed conversion of each week (d7 .891 ... d56 1.842), interpolated.
_COBB_500_WEIGHT_G = (
    42, 55, 71, 90, 112, 138, 168, 202, 240, 283, 330, 382, 440, 503, 570, 639, 711, 786, 864, 945, 1029, 1116,
    1205, 1296, 1390, 1486, 1583, 1682, 1783, 1886, 1989, 2094, 2200, 2306, 2413, 2521, 2629, 2738, 2846, 2954,
    3062, 3170, 3278, 3384, 3490, 3595, 3699, 3801, 3902, 4001, 4099, 4195, 4289, 4380, 4470, 4557, 4641,
)  # fmt: skip
_COBB_500_FCR = {0: 0.0, 7: 0.891, 14: 1.029, 21: 1.182, 28: 1.322, 35: 1.441, 42: 1.555, 49: 1.686, 56: 1.842}


def _cobb_500_feed_g() -> tuple[int, ...]:
    """Return the daily intake that weight and cumulative feed conversion imply, in g per bird."""
    knots = sorted(_COBB_500_FCR)

    def cumulative(day: int) -> float:
        right = next(k for k in knots if k >= day)
        left = max(k for k in knots if k <= day)
        share = 0.0 if right == left else (day - left) / (right - left)
        fcr = _COBB_500_FCR[left] + share * (_COBB_500_FCR[right] - _COBB_500_FCR[left])
        return fcr * _COBB_500_WEIGHT_G[day]

    return (0, *(round(cumulative(day) - (cumulative(day - 1) if day > 1 else 0)) for day in range(1, 57)))


COBB_500 = Strain("cobb500", "Cobb-Vantress 2022", _COBB_500_WEIGHT_G, _cobb_500_feed_g())

STRAINS = {strain.name: strain for strain in (ROSS_308, COBB_500)}
DEFAULT_STRAIN = ROSS_308  # the most common in Europe; used where nobody said


def is_known(name: str | None) -> bool:
    """Tell whether a strain has a curve here; one that nobody named has the default's."""
    return name is None or _plain(name) in STRAINS


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def strain_of(name: str | None) -> Strain:
    """Return the curve for a strain as people write it ("Ross 308", "ROSS-308"); an unknown one gets the default."""
    return STRAINS.get(_plain(name or ""), DEFAULT_STRAIN)
