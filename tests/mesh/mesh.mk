# The filters' OCI images, and the test mesh: a real Kubernetes with a real Istio in Linux namespaces of its own (root needed).
.PHONY: image push image-native push-native rules mesh-tools mesh-test demo-mesh load-test mesh-down

MESHLAB := cd tests/mesh && python3 -m meshlab

image: filters ## Builds an OCI image of each filter, target/images/*.tar
	@python3 wasmplugin-manifests/images/images.py build

push: filters ## Pushes the images to REGISTRY=host/path, and writes their digests into the manifests
	@python3 wasmplugin-manifests/images/images.py push --registry "$(REGISTRY)"

image-native: native ## Builds an OCI image of the native module, for each architecture of which there is one: target/images/native.tar
	@python3 wasmplugin-manifests/images/images.py build native

push-native: native ## Pushes it to REGISTRY=host/path, beside mesh-filters, and writes its digest into the manifests
	@python3 wasmplugin-manifests/images/images.py push --registry "$(REGISTRY)" native

mesh-tools:
	@tests/mesh/install-deps
	@tests/mesh/build-tools

mesh-test: filters native mesh-tools ## Installs the manifests on a real mesh and checks how it behaves; CHECKS=words runs some of the checks
	@$(MESHLAB) test $(CHECKS)

demo-mesh: filters mesh-tools ## Starts that mesh, leaves it running, and prints commands to try
	@$(MESHLAB) up

load-test: ## Sends load to the mesh of demo-mesh; fails if a service misses its objective in tests/mesh/load/objectives.json
	@$(MESHLAB) load-test

mesh-down: ## Ends the mesh of demo-mesh
	@$(MESHLAB) down

rules: ## Writes overlays/observability/rules.yaml in the form of the Prometheus Operator
	@cd wasmplugin-manifests/overlays/observability && { \
	  printf '%s\n' '# For the Prometheus Operator: rules.yaml as a PrometheusRule, written by `make rules`.' \
	    'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' \
	    'metadata: { name: mesh-filters, namespace: observability }' 'spec:'; \
	  sed -n '/^groups:/,$$p' rules.yaml | sed 's/^\(.\)/  \1/'; } >operator/prometheus-rule.yaml
