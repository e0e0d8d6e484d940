import io

from d2check.model import Run, RunReport, Unreadable
from d2check.report.audit_progress import AuditProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_short_audit_shows_nothing():
    stream = Terminal()
    progress = AuditProgress(stream)
    progress.judged(RunReport(Run("out"), ()))
    progress.close()
    assert stream.getvalue() == ""


def test_a_long_audit_counts_runs_and_lost_paths():
    stream = Terminal()
    progress = AuditProgress(stream, quiet_s=0)
    progress.judged(Unreadable("lost\x1b[2Jpath", "no permission"))
    progress.close()
    assert "0 runs judged" in stream.getvalue()
    assert "1 could not be read" in stream.getvalue()
    assert "\x1b[2Jpath" not in stream.getvalue()
