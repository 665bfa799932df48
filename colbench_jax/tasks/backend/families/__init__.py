"""The program families of ColBench's backend tasks, by what their programs work on: request, program, slots, inputs.

Names, texts and programs are our own. The first value of a slot is the most common one, which an agent that does not
ask would guess.
"""

from colbench_jax.tasks.backend.families import amounts, records, series, states, texts
from colbench_jax.tasks.backend.families.shared import DOMAINS

__all__ = ['DOMAINS', 'FAMILIES', 'UNSEEN']

FAMILIES = {
    family.name: family
    for family in (
        records.FILTER_TOTAL,
        amounts.TIERED_PRICE,
        amounts.WEIGHTED_SCORE,
        texts.ID_FORMAT,
        series.DATE_BUCKETS,
        amounts.REORDER,
        records.RANKING,
        series.ALARM,
        series.WINDOW,
        records.GROUPING,
        amounts.CONVERSION,
        states.CONFLICTS,
        states.REACH,
        texts.REDACT,
        texts.PARSER,
        states.LOCK,
        amounts.BUDGET,
        texts.UNIQUE,
        series.STREAK,
        series.HISTOGRAM,
        amounts.LATE_FEE,
        texts.CHECKS,
        texts.WORDS,
        amounts.GRADES,
    )
}
UNSEEN = ('conversion', 'conflicts', 'streak', 'grades')  # families that are never trained on
