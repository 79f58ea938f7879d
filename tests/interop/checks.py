"""What a healthy comparison must be, and a faulty one."""

from __future__ import annotations

from ckptdbg.result import Finding, Result


def assert_healthy(result: Result) -> None:
    """Equivalent, with every parameter of the target exercised and nothing but the mask left out."""
    assert result.verdict == "equivalent", [(f.site, f.explanation) for f in result.findings]
    assert not result.findings
    assert result.coverage.parameters_exercised == result.coverage.parameters_total
    assert max(site.ratio for site in result.sites if site.ratio is not None) < 10


def only_finding(result: Result, verdict: str = "divergent") -> Finding:
    """The one thing that was found."""
    assert result.verdict == verdict
    assert len(result.findings) == 1, [(f.kind, f.site, f.explanation) for f in result.findings]
    return result.findings[0]


def entries(finding: Finding) -> list[str]:
    return [entry.name for entry in finding.entries]
