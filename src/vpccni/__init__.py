"""vpccni: a VPC CNI for Kubernetes in small processes. The code lives in the repository's top folders."""

__version__ = "0.1.0"
