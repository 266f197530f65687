package intercept

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestNotInterceptingNamesThePoliciesThatCannotBe(t *testing.T) {
	t.Parallel()
	old := newAuthority(t, "weir", "old.test", "wide.test")
	// A policy came with another host: the authority that may sign for it is
	// unknown to this pod, though the older one vouches for it.
	operator := newAuthority(t, "weir", "old.test", "wide.test", "new.test", "wider.test")
	operator.above = []*x509.Certificate{operator.signedBy("weir", old.key, old.cert)}
	policies := []ruleset.Policy{
		intercepting("both", "a.old.test", "a.new.test"),
		intercepting("new", "*.wider.test"),
		intercepting("old", "a.old.test", "*.wide.test"),
		{PolicyRef: ruleset.PolicyRef{Name: "passthrough"}, Direction: ruleset.Outbound, Hosts: []string{"b.new.test"}},
	}
	h := build(t, operator, nil, nil, func(c *Config) { c.Authorities = old.pem() })
	if got := h.NotIntercepting(); len(got) != 0 {
		t.Fatalf("without a policy, %q", got)
	}
	rs := &ruleset.Ruleset{Authorities: old.pem() + operator.pem(), Policies: policies}
	if err := h.Use(rs); err != nil {
		t.Fatal(err)
	}
	h.Settle(t.Context())
	if got, want := h.NotIntercepting(), []string{"both", "new"}; !slices.Equal(got, want) {
		t.Errorf("NotIntercepting: %q, want %q", got, want)
	}
	select {
	case <-h.Changed():
	case <-time.After(patience):
		t.Fatal("nobody was told that hosts cannot be intercepted")
	}
	rs.Policies = policies[2:]
	if err := h.Use(rs); err != nil {
		t.Fatal(err)
	}
	<-h.Changed()
	if got := h.NotIntercepting(); len(got) != 0 {
		t.Errorf("without the new hosts: %q, want none", got)
	}
}

func TestNotInterceptingIsEverythingWherePodsWereNotLedToTheBundle(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	for reason, set := range map[string]func(*Config){
		"the injector led nobody to it": func(c *Config) { c.Trust = false },
		"there was no authority":        func(c *Config) { c.Authorities = "" },
	} {
		h := build(t, operator, nil, []string{host}, set)
		if got := h.NotIntercepting(); !slices.Equal(got, []string{"spotify"}) {
			t.Errorf("%s: %q, want the policy", reason, got)
		}
		if operator.asked.Load() != 0 {
			t.Errorf("%s: the operator was asked for a leaf that is of no use", reason)
		}
	}
}

func TestTableNamesHosts(t *testing.T) {
	t.Parallel()
	inbound := intercepting("inbound", "inbound.test")
	inbound.Direction = ruleset.Inbound
	table := newTable([]ruleset.Policy{
		intercepting("a", "a.test", "*.b.test"), intercepting("b", "b.test"), intercepting("none"), inbound,
	})
	for name, want := range map[string]bool{
		"a.test": true, "x.a.test": false, "b.test": true, "x.b.test": true, "x.y.b.test": true, "xb.test": false,
		"test": false, "": false, "inbound.test": false, ".b.test": true,
	} {
		if got := table.names(name); got != want {
			t.Errorf("%q is named: %v, want %v", name, got, want)
		}
	}
	if got, want := table.wanted(), []string{"a.test", "b.test", "weir.b.test"}; !slices.Equal(got, want) {
		t.Errorf("wanted %q, want %q", got, want)
	}
	if got, want := table.withAny([]string{"x.b.test"}), []string{"a"}; !slices.Equal(got, want) {
		t.Errorf("policies with a name under b.test: %q, want %q", got, want)
	}
}
