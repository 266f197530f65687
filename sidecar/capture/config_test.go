package capture

import (
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	good := Config{UID: 1, InboundPort: 2, OutboundPort: 3}
	many := make([]uint16, maxPorts+1)
	for i := range many {
		many[i] = uint16(i + 1)
	}
	for _, c := range []struct {
		reason string
		change func(*Config)
		says   string
	}{
		{"nothing to capture is fine", func(*Config) {}, ""},
		{"as many ports as there may be", func(c *Config) { c.InboundPorts, c.OutboundPorts = many[1:], many[1:] }, ""},
		{"root's traffic would not be captured", func(c *Config) { c.UID = 0 }, "root"},
		{"nothing accepts on port 0", func(c *Config) { c.OutboundPort = 0 }, "not 0"},
		{"one port cannot serve both directions", func(c *Config) { c.InboundPort = 3 }, "two"},
		{"too many inbound ports", func(c *Config) { c.InboundPorts = many }, "65 inbound ports"},
		{"too many outbound ports", func(c *Config) { c.OutboundPorts = many }, "65 outbound ports"},
		{"0 among the ports", func(c *Config) { c.OutboundPorts = []uint16{80, 0} }, "0 is not a port"},
	} {
		config := good
		c.change(&config)
		err := config.check()
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, expected an error that says %q", c.reason, err, c.says)
		}
	}
}

func TestCapturedPorts(t *testing.T) {
	t.Parallel()
	own := []uint16{9001, 9002, ruleset.LocalPort, ruleset.HealthPort}
	config := Config{
		InboundPort: 9001, OutboundPort: 9002,
		InboundPorts:  append([]uint16{8080, 80, 8080}, own...),
		OutboundPorts: []uint16{443, 80, 443},
	}
	if got, want := config.inbound(), []uint16{80, 8080}; !slices.Equal(got, want) {
		t.Errorf("inbound ports are %v, expected %v: each once, none the sidecar's own", got, want)
	}
	if got, want := config.outbound(), []uint16{80, 443}; !slices.Equal(got, want) {
		t.Errorf("outbound ports are %v, expected %v", got, want)
	}
}
