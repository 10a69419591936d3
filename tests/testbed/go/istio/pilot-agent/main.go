// Command pilot-agent is what runs beside Envoy in every sidecar.
package main

import (
	"os"

	mesh "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/cmd/pilot-agent/app"
	agent "istio.io/istio/pkg/istio-agent"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/nodeagent/sds"
)

// secrets is the agent's own secret server, as Istio's released agent has it.
func secrets(opts *security.Options, store security.SecretManager, key *mesh.PrivateKeyProvider) agent.SDSService {
	return sds.NewServer(opts, store, key)
}

func main() {
	if err := app.NewRootCommand(secrets).Execute(); err != nil {
		os.Exit(1)
	}
}
