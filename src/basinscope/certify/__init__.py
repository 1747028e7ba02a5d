"""Certificates: what is guaranteed of a capability under noise and displacement of the weights."""

from basinscope.certify.certificate import Certificate
from basinscope.certify.embeddings import untied
from basinscope.certify.sampling import certify
from basinscope.certify.smoothed import Smoothed, smoothed
from basinscope.certify.strict import StrictBasin, strict_basin
from basinscope.certify.tokens import TokenCertificate, certify_tokens
from basinscope.certify.verdict import Verdict, bound_to

__all__ = [
    "Certificate",
    "Smoothed",
    "StrictBasin",
    "TokenCertificate",
    "Verdict",
    "bound_to",
    "certify",
    "certify_tokens",
    "smoothed",
    "strict_basin",
    "untied",
]
