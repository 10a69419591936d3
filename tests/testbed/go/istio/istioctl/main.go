// Command istioctl asks istiod what it thinks its proxies have.
package main

import (
	"os"

	"istio.io/istio/istioctl/cmd"
)

func main() {
	if err := cmd.GetRootCmd(os.Args[1:]).Execute(); err != nil {
		os.Exit(1)
	}
}
