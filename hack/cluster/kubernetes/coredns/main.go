// Command coredns is CoreDNS with only the plugins that the one-node cluster
// needs: a third of the build time of the full one.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/rewrite"
)

func main() {
	dnsserver.Directives = []string{"bind", "health", "ready", "errors", "rewrite", "kubernetes"}
	coremain.Run()
}
