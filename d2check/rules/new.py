"""The text of a new rule, to start from."""

from __future__ import annotations

import re

from d2check.errors import UsageError

_TEMPLATE = """\
# The language: docs/rules.md. Test it with: d2check rules test {id} --rules FOLDER
id: {id}
title: The total loss ends far above its lowest level   # one line: what is wrong when it fails
status: trial            # reports, never gates; stable once real runs have shown that it is right
severity: medium         # the consequence: high, medium, low, info
why: |
  Two or three sentences for a tired user: what it means, why it matters.
check: loss_rise         # a measuring function: d2check/checks/
reads:
  losses: series.losses
  total: series.total_loss
  lr: series.lr?         # a ? makes it optional
warn: {{all_of: [{{above: 1.5}}, {{of: z, above: 3.5}}]}}   # thresholds live only here
message: "the loss ended {{value:.1f}} times as high as at iteration {{best_at}}"
passed: the loss ended near its lowest level
fixes:
  - set: {{SOLVER.BASE_LR: "significant(config.SOLVER.BASE_LR / 2, 3)"}}
    risk: try
    because: half the rate makes half the steps
links: []
examples:                # the rule's unit tests: a pass, one per threshold, one per fix
  - name: a healthy noisy run
    series: {{total_loss: "2.4->0.9 x300", loss_cls: "1.2->0.4 x300", lr: "0.01 x300"}}
    noise: 0.15
    expect: pass
  - name: climbs back
    series:
      total_loss: "2.4->0.9 x200, 0.9->3.0 x200"
      loss_cls: "1.2->0.4 x200, 0.4->1.5 x200"
      lr: "0.01 x400"
    noise: 0.05
    config: {{SOLVER.BASE_LR: 0.01}}
    expect: warn
    proposes: {{SOLVER.BASE_LR: 0.005}}
"""


def new_rule(rule_id: str) -> str:
    """A rule file that loads and passes its examples, to be changed. Raises UsageError."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*", rule_id):
        raise UsageError(
            f"{rule_id!r} is no rule id. Expected FAMILY/NAME in small letters, digits and "
            "hyphens, such as loss/rises-late. It names the symptom, never the cure."
        )
    return _TEMPLATE.format(id=rule_id)
