package injection

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxBootstrapBytes bounds the bootstrap: Linux gives a process no environment
// variable of 128 KiB (MAX_ARG_STRLEN), and etcd no object of 1.5 MiB.
const maxBootstrapBytes = 96 << 10

// encodeBootstrap is the value of the sidecar's environment variable
// ruleset.BootstrapEnv. It never holds a Store. Rules that are too many for a
// variable are left out, with an empty Version: the sidecar then has no rules
// and waits for the link to give it its first.
func encodeBootstrap(bootstrap ruleset.Bootstrap) (string, error) {
	bootstrap.Ruleset.Store = nil
	bootstrap.Ruleset.Seal()
	value, err := encode(bootstrap)
	if err != nil || len(value) <= maxBootstrapBytes {
		return value, err
	}

	bootstrap.Ruleset.Policies = nil
	bootstrap.Ruleset.Version = ""
	value, err = encode(bootstrap)
	if err == nil && len(value) > maxBootstrapBytes {
		return "", refusef("the pod's %d probes are too many for Weir's sidecar (%d bytes, at most %d): remove some or shorten their paths, or label the pod weir.dev/inject=\"false\"",
			len(bootstrap.Probes), len(value), maxBootstrapBytes)
	}
	return value, err
}

func encode(bootstrap ruleset.Bootstrap) (string, error) {
	encoded, err := json.Marshal(bootstrap)
	if err != nil {
		return "", fmt.Errorf("encoding the sidecar's first rules: %w", err)
	}
	// Kubernetes expands $(NAME) and $$ in the values of variables, and regular
	// expressions have dollars. In JSON they stand within strings only.
	return strings.ReplaceAll(string(encoded), "$", `\u0024`), nil
}
