package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, remote string
		hops, bits     int64
		forwarded      []string
		want           string
	}{
		{"the peer", "10.1.2.3", 0, 64, []string{"1.1.1.1"}, "10.1.2.3"},
		{"unmapped", "::ffff:10.1.2.3", 0, 64, nil, "10.1.2.3"},
		{"an IPv6 peer's network", "2001:db8:1:2:3:4:5:6", 0, 64, nil, "2001:db8:1:2::/64"},
		{"or the whole of it", "2001:db8:1:2:3:4:5:6", 0, 128, nil, "2001:db8:1:2:3:4:5:6"},
		{"or less", "2001:db8:1:2ff:3:4:5:6", 0, 56, nil, "2001:db8:1:200::/56"},
		{"or next to nothing", "2001:db8::1", 0, 1, nil, "::/1"},
		{"without its zone", "fe80::1%eth0", 0, 128, nil, "fe80::1"},
		{"a network has none either", "fe80::1%eth0", 0, 64, nil, "fe80::/64"},
		{"an IPv4 address is whole", "10.1.2.3", 0, 8, nil, "10.1.2.3"},

		{"the last entry", "10.0.0.1", 1, 64, []string{"1.1.1.1, 2.2.2.2"}, "2.2.2.2"},
		{"the one before", "10.0.0.1", 2, 64, []string{"1.1.1.1, 2.2.2.2"}, "1.1.1.1"},
		{"over all fields", "10.0.0.1", 3, 64, []string{"9.9.9.9,1.1.1.1", "2.2.2.2", "3.3.3.3"}, "1.1.1.1"},
		{"fewer than hops", "10.0.0.1", 3, 64, []string{"1.1.1.1, 2.2.2.2"}, ""},
		{"no field", "10.0.0.1", 1, 64, nil, ""},
		{"what a caller sends does not move what proxies append", "10.0.0.1", 1, 64, []string{"6.6.6.6, ,,", "2.2.2.2"}, "2.2.2.2"},
		{"nor does what is empty", "10.0.0.1", 2, 64, []string{"6.6.6.6,", "2.2.2.2"}, ""},
		{"an empty field is an entry", "10.0.0.1", 2, 64, []string{"6.6.6.6", "", "2.2.2.2"}, ""},
		{"space around it", "10.0.0.1", 1, 64, []string{"1.1.1.1,\t 2.2.2.2 "}, "2.2.2.2"},
		{"a port", "10.0.0.1", 1, 64, []string{"1.1.1.1:443"}, "1.1.1.1"},
		{"IPv6", "10.0.0.1", 1, 64, []string{"2001:db8::1"}, "2001:db8::/64"},
		{"IPv6 in brackets", "10.0.0.1", 1, 128, []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"with a port", "10.0.0.1", 1, 128, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"with a zone", "10.0.0.1", 1, 128, []string{"[fe80::1%25eth0]:443"}, "fe80::1"},
		{"mapped", "10.0.0.1", 1, 64, []string{"[::ffff:1.1.1.1]:80"}, "1.1.1.1"},
		{"IPv4 in brackets is none", "10.0.0.1", 1, 64, []string{"[1.1.1.1]"}, ""},
		{"a name is none", "10.0.0.1", 1, 64, []string{"1.1.1.1, unknown"}, ""},
		{"a leading zero", "10.0.0.1", 1, 64, []string{"01.1.1.1"}, ""},
		{"a port that is none", "10.0.0.1", 1, 64, []string{"1.1.1.1:http"}, ""},
		{"longer than any", "10.0.0.1", 1, 64, []string{"fe80::1%" + strings.Repeat("e", 200)}, ""},
	} {
		r := request{remote: netip.MustParseAddr(c.remote), fields: linesOf("x-forwarded-for", c.forwarded...)}
		if got := addressOf(&ruleset.ClientIPSource{TrustedHops: c.hops, IPv6PrefixLength: c.bits}, &r); got != c.want {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
	if got := addressOf(&ruleset.ClientIPSource{IPv6PrefixLength: 64}, &request{}); got != "" {
		t.Errorf("no peer: got %q", got)
	}
}

// Behind n proxies that append, a caller is the one that called the first of
// them, whatever it sends itself and however the proxies write their fields.
func TestTrustedHopsAreNotMovedByCallers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		hops := rapid.IntRange(1, 10).Draw(t, "hops")
		lines := rapid.SliceOfN(rapid.StringMatching(`[0-9., \[\]:a-f]{0,20}`), 0, 3).Draw(t, "sent by the caller")
		want := "192.0.2.7"
		for hop := range hops {
			from := want
			if hop > 0 {
				from = rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2:80", "[fd00::1]:1"}).Draw(t, "proxy")
			}
			if len(lines) > 0 && rapid.Bool().Draw(t, "same field") {
				lines[len(lines)-1] += ", " + from
			} else {
				lines = append(lines, from)
			}
		}
		r := request{remote: netip.MustParseAddr("10.0.0.3"), fields: linesOf("X-Forwarded-For", lines...)}
		if got := addressOf(&ruleset.ClientIPSource{TrustedHops: int64(hops), IPv6PrefixLength: 64}, &r); got != want {
			t.Fatalf("%q, %d hops: got %q, want %q", lines, hops, got, want)
		}
	})
}

// What is found is an address or a network, in one spelling.
func FuzzAddress(f *testing.F) {
	f.Add("1.1.1.1, [2001:db8::1%eth0]:443", int64(1), int64(64))
	f.Add("::ffff:1.2.3.4:80", int64(1), int64(128))
	f.Fuzz(func(t *testing.T, line string, hops, bits int64) {
		source := ruleset.ClientIPSource{TrustedHops: hops, IPv6PrefixLength: min(max(bits, 1), 128)}
		got := addressOf(&source, &request{fields: linesOf("X-Forwarded-For", line)})
		if got == "" {
			return
		}
		if network, err := netip.ParsePrefix(got); err == nil && network.String() == got && network == network.Masked() {
			return
		}
		if addr, err := netip.ParseAddr(got); err != nil || addr.String() != got || addr.Zone() != "" || addr.Is4In6() {
			t.Fatalf("%q, %d hops, %d bits: %q", line, hops, bits, got)
		}
	})
}
