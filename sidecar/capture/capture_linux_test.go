package capture

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// sidecar is what these tests capture: one application port inbound, two
// ports outbound, and the sidecar's own, which must stay reachable.
var sidecar = Config{
	InboundPorts:  []uint16{8080, ruleset.HealthPort, ruleset.InboundPort, ruleset.OutboundPort},
	OutboundPorts: []uint16{80, 443},
	UID:           ruleset.UID,
	InboundPort:   ruleset.InboundPort, OutboundPort: ruleset.OutboundPort,
}

// Not parallel: the nftables package numbers its sets in an unguarded global.
func TestCapture(t *testing.T) {
	pod, peer := pair(t)
	pod.install(sidecar)
	inPod := pod.listen(80, 8080, 9999, ruleset.InboundPort, ruleset.OutboundPort, ruleset.HealthPort)
	inPeer := peer.listen(80, 9999)

	for _, c := range []struct {
		reason string
		from   *node
		uid    int
		to     string
		where  *server
		port   uint16 // that accepts
	}{
		{"outbound is captured", pod, 0, peer4 + ":80", inPod, ruleset.OutboundPort},
		{"outbound is captured, whoever sends", pod, 1000, peer4 + ":443", inPod, ruleset.OutboundPort},
		{"outbound is captured on IPv6", pod, 0, "[" + peer6 + "]:80", inPod, ruleset.OutboundPort},
		{"inbound is captured", peer, 0, pod4 + ":8080", inPod, ruleset.InboundPort},
		{"inbound is captured on IPv6", peer, 0, "[" + pod6 + "]:8080", inPod, ruleset.InboundPort},
		{"another outbound port is left alone", pod, 0, peer4 + ":9999", inPeer, 9999},
		{"another inbound port is left alone", peer, 0, pod4 + ":9999", inPod, 9999},
		{"the sidecar's own requests are left alone", pod, ruleset.UID, peer4 + ":80", inPeer, 80},
		{"the sidecar's own requests are left alone on IPv6", pod, ruleset.UID, "[" + peer6 + "]:80", inPeer, 80},
		{"the sidecar reaches the application", pod, ruleset.UID, pod4 + ":8080", inPod, 8080},
		{"the sidecar reaches the application on IPv6", pod, ruleset.UID, "[" + pod6 + "]:8080", inPod, 8080},
		{"a pod that calls its own address is left alone", pod, 0, pod4 + ":80", inPod, 80},
		{"and on an inbound port too", pod, 0, pod4 + ":8080", inPod, 8080},
		{"loopback is left alone", pod, 0, "127.0.0.1:80", inPod, 80},
		{"loopback is left alone on IPv6", pod, 0, "[::1]:80", inPod, 80},
		{"probes reach the health port", peer, 0, pod4 + ":14020", inPod, ruleset.HealthPort},
		{"the inbound port is not captured by itself", peer, 0, pod4 + ":14006", inPod, ruleset.InboundPort},
		{"nor by the other direction", pod, 0, pod4 + ":14001", inPod, ruleset.OutboundPort},
		{"nor on IPv6", peer, 0, "[" + pod6 + "]:14006", inPod, ruleset.InboundPort},
	} {
		c.from.dial(c.uid, c.to)
		got := c.where.next()
		if got.port != c.port {
			t.Errorf("%s: port %d accepted, expected %d", c.reason, got.port, c.port)
			continue
		}
		to := netip.MustParseAddrPort(c.to)
		if to.Port() == c.port { // not captured
			if !errors.Is(got.err, ErrNotCaptured) {
				t.Errorf("%s: the original destination is %v, %v; expected %v", c.reason, got.original, got.err, ErrNotCaptured)
			}
			continue
		}
		if got.err != nil || got.original != to {
			t.Errorf("%s: the original destination is %v, %v; expected %v", c.reason, got.original, got.err, to)
		}
	}
}

func TestMultipathClientsAreCaptured(t *testing.T) {
	pod, peer := pair(t)
	pod.install(sidecar)
	inPod := pod.listen(ruleset.InboundPort)
	peer.dial(0, pod4+":8080", func(d *net.Dialer) { d.SetMultipathTCP(true) })
	if got := inPod.next(); got.err != nil || got.original.String() != pod4+":8080" {
		t.Errorf("the original destination is %v, %v; expected that of a plain connection", got.original, got.err)
	}
}

func TestInstallReplacesItsTableAndNoOther(t *testing.T) {
	pod, peer := pair(t)
	other := &nftables.Table{Family: nftables.TableFamilyINet, Name: "other"}
	pod.As(0, func() {
		conn := &nftables.Conn{}
		conn.AddTable(other)
		chain := conn.AddChain(&nftables.Chain{Table: other, Name: "theirs"})
		conn.AddRule(&nftables.Rule{Table: other, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	pod.install(sidecar)
	inPod := pod.listen(80, 8080, ruleset.InboundPort)
	before := peer.dial(0, pod4+":8080")
	line := bufio.NewReader(before)
	if got, err := line.ReadString('\n'); err != nil || got != "14006\n" {
		t.Fatalf("reached %q, %v; expected the inbound port", got, err)
	}
	inPod.next()

	pod.install(sidecar)
	changed := sidecar
	changed.InboundPorts = []uint16{80}
	pod.install(changed)

	if got, want := pod.tables(), []string{"other: 1 chains, 1 rules", "weir: 2 chains, 5 rules"}; !slices.Equal(got, want) {
		t.Errorf("the tables are %q, expected %q", got, want)
	}
	if _, err := before.Write([]byte("still here\n")); err != nil {
		t.Errorf("writing on a connection from before: %v", err)
	}
	if got, err := line.ReadString('\n'); err != nil || got != "still here\n" {
		t.Errorf("a connection from before answers %q, %v; expected it to go on", got, err)
	}
	for to, port := range map[string]uint16{pod4 + ":80": ruleset.InboundPort, pod4 + ":8080": 8080} {
		peer.dial(0, to)
		if got := inPod.next(); got.port != port {
			t.Errorf("%s reaches port %d after the change, expected %d", to, got.port, port)
		}
	}
}

func TestNothingToCapture(t *testing.T) {
	pod, peer := pair(t)
	inPod, inPeer := pod.listen(8080), peer.listen(80)
	peer.dial(0, pod4+":8080")
	if got := inPod.next(); !errors.Is(got.err, ErrNotCaptured) {
		t.Errorf("without a table the original destination is %v, %v; expected %v", got.original, got.err, ErrNotCaptured)
	}
	nothing := sidecar
	nothing.InboundPorts, nothing.OutboundPorts = nil, nil
	pod.install(nothing)
	peer.dial(0, pod4+":8080")
	inPod.next()
	pod.dial(0, peer4+":80")
	inPeer.next()
}

func TestHostWithoutIPv6(t *testing.T) {
	pod, peer := pair(t)
	pod.As(0, func() {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644); err != nil {
			t.Error(err)
		}
	})
	pod.install(sidecar)
	inPod := pod.listen(ruleset.InboundPort)
	peer.dial(0, pod4+":8080")
	if got := inPod.next(); got.err != nil || got.original.String() != pod4+":8080" {
		t.Errorf("the original destination is %v, %v; expected %s:8080", got.original, got.err, pod4)
	}
}

func TestInstallWithoutTheCapability(t *testing.T) {
	pod, _ := pair(t)
	pod.As(1000, func() {
		if err := Install(sidecar); !errors.Is(err, os.ErrPermission) {
			t.Errorf("got %v, expected a refusal", err)
		}
	})
}

func TestOriginalDestinationOfWhatIsNoSocket(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if got, err := OriginalDestination(a); err == nil {
		t.Errorf("got %v of a pipe, expected an error", got)
	}
}

// tables lists what the node has.
func (n *node) tables() (found []string) {
	n.As(0, func() {
		conn := &nftables.Conn{}
		tables, err := conn.ListTables()
		if err != nil {
			n.t.Error(err)
			return
		}
		for _, table := range tables {
			chains, err := conn.ListChainsOfTableFamily(table.Family)
			if err != nil {
				n.t.Error(err)
				return
			}
			found = append(found, describe(n.t, conn, table, chains))
		}
	})
	slices.Sort(found)
	return found
}

// describe counts a table's chains and rules.
func describe(t *testing.T, conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain) string {
	own, rules := 0, 0
	for _, chain := range chains {
		if chain.Table.Name != table.Name {
			continue
		}
		own++
		found, err := conn.GetRules(table, chain)
		if err != nil {
			t.Error(err)
		}
		rules += len(found)
	}
	return fmt.Sprintf("%s: %d chains, %d rules", table.Name, own, rules)
}
