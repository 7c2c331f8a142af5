// What istiod makes of resources, by its own code and without a cluster: the HTTP filters that decide about requests to one workload,
// and whether a port that is not HTTP is open.
package istiod

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
)

type workload struct {
	Name      string
	Namespace string
	Labels    map[string]string
	IsGateway bool
	Resources string
}

type translation struct {
	HTTP []any `json:"http"`
	TCP  []any `json:"tcp"`
}

// filters are those of a list that decide.
func filters(list []any, kind string) []any {
	found := []any{}
	for _, one := range list {
		filter := one.(map[string]any)
		name, _ := filter["name"].(string)
		if name == "envoy.filters."+kind+".jwt_authn" || name == "envoy.filters."+kind+".rbac" {
			found = append(found, map[string]any{"name": name, "typed_config": filter["typed_config"]})
		}
	}
	return found
}

// chains calls visit with each filter chain's network filters.
func chains(listener map[string]any, visit func([]any)) {
	all, _ := listener["filter_chains"].([]any)
	if fallback, ok := listener["default_filter_chain"]; ok {
		all = append(all, fallback)
	}
	for _, chain := range all {
		if list, ok := chain.(map[string]any)["filters"].([]any); ok {
			visit(list)
		}
	}
}

func TestTranslate(t *testing.T) {
	input, err := os.ReadFile(os.Getenv("WORKLOADS"))
	if err != nil {
		t.Fatal(err)
	}
	var workloads []workload
	if err := json.Unmarshal(input, &workloads); err != nil {
		t.Fatal(err)
	}
	all := map[string]translation{}
	for _, one := range workloads {
		t.Run(one.Name, func(t *testing.T) {
			server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{ConfigString: one.Resources})
			kind, wanted := model.SidecarProxy, "virtualInbound"
			if one.IsGateway {
				kind, wanted = model.Router, "0.0.0.0_80"
			}
			proxy := server.SetupProxy(&model.Proxy{
				Type:            kind,
				ConfigNamespace: one.Namespace,
				Labels:          one.Labels,
				IPAddresses:     []string{"10.1.1.1"},
				Metadata:        &model.NodeMetadata{Namespace: one.Namespace, Labels: one.Labels},
			})
			made := translation{HTTP: []any{}, TCP: []any{}}
			has := false
			for _, listener := range server.Listeners(proxy) {
				if listener.Name != wanted {
					continue
				}
				text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(listener)
				if err != nil {
					t.Fatal(err)
				}
				var read map[string]any
				if err := json.Unmarshal(text, &read); err != nil {
					t.Fatal(err)
				}
				chains(read, func(list []any) {
					last := list[len(list)-1].(map[string]any)
					config := last["typed_config"].(map[string]any)
					http, ok := config["http_filters"].([]any)
					if ok {
						made.HTTP, has = filters(http, "http"), true
					} else if strings.HasSuffix(last["name"].(string), "tcp_proxy") {
						made.TCP = filters(list, "network")
					}
				})
			}
			if !has {
				t.Fatalf("no listener %s with HTTP filters", wanted)
			}
			all[one.Name] = made
		})
	}
	output, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("TRANSLATED"), output, 0o644); err != nil {
		t.Fatal(err)
	}
}
