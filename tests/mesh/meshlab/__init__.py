"""A real one-node Kubernetes with a real Istio, in Linux namespaces of its own, and the checks that run on it."""
