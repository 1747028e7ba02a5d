"""Certificates: what is guaranteed of a capability under noise and displacement of the weights."""

from basinscope.certify.certificate import Certificate
from basinscope.certify.sampling import certify, load_certificate

__all__ = ["Certificate", "certify", "load_certificate"]
