"""Certificates: what is guaranteed of a capability under noise and displacement of the weights."""

from basinscope.certify.certificate import Certificate
from basinscope.certify.sampling import certify, load_certificate
from basinscope.certify.verdict import Verdict

__all__ = ["Certificate", "Verdict", "certify", "load_certificate"]
