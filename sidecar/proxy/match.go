package proxy

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// table is a compiled Ruleset.
type table struct {
	namespace string
	policies  []*policy // in the Ruleset's order
	services  map[string]*policy
	inbound   index
	outbound  index
}

// index finds the policies of one direction by host.
type index struct {
	exact    map[string][]*policy
	wildcard map[string][]*policy // by what follows "*."
	any      []*policy
}

// names are the hosts that a connection was made for, as far as it says so
// itself: the one that its client asked for a tunnel to, and the one within the
// TLS that ended here (SNI); empty without. A request in it is for each of them,
// whatever its Host says.
type names [2]string

const (
	nameOfTunnel = iota
	nameOfTLS
)

// policy is a compiled ruleset.Policy.
type policy struct {
	*ruleset.Policy
	order    int
	fullName string // namespace/name
	matches  []match
	sources  []source
	// stripped are the names of headers that its sources strip.
	stripped  []string
	overrides map[string][]ruleset.Limit
	grants    map[string]*ruleset.Override
	counters  [decisions]prometheus.Counter
	unseen    prometheus.Counter
	recording *report.Recording
	// Of a policy that holds requests: those in its lines, how long they
	// waited, and those that found no place.
	waiting   prometheus.Gauge
	waits     [endings]prometheus.Observer
	overflows map[bound]prometheus.Counter
}

func (p *policy) count(d decision) { p.counters[d].Inc() }

// limitsFor is ruleset.Policy.LimitsFor without walking the overrides.
func (p *policy) limitsFor(identity string) []ruleset.Limit {
	if grant := p.grants[identity]; grant != nil && grant.Holds(time.Now()) {
		return grant.Limits
	}
	if limits, ok := p.overrides[identity]; ok {
		return limits
	}
	return p.Limits
}

type match struct {
	methods []string
	path    *ruleset.Path
	regexp  *regexp.Regexp
	headers []headerMatch
}

// compile checks a Ruleset and prepares it for matching.
func compile(rs *ruleset.Ruleset) (*table, error) {
	t := &table{namespace: rs.Namespace, services: map[string]*policy{}}
	for i := range rs.Policies {
		p, err := compilePolicy(rs.Namespace, &rs.Policies[i])
		if err != nil {
			return nil, fmt.Errorf("policy %s/%s: %w", rs.Namespace, rs.Policies[i].Name, err)
		}
		if other := t.services[p.Service]; other != nil {
			return nil, fmt.Errorf("policies %s and %s share the service %q", other.fullName, p.fullName, p.Service)
		}
		p.order = i
		t.policies = append(t.policies, p)
		t.services[p.Service] = p
		if p.Direction == ruleset.Inbound {
			t.inbound.add(p)
		} else {
			t.outbound.add(p)
		}
	}
	return t, nil
}

func compilePolicy(namespace string, rp *ruleset.Policy) (*policy, error) {
	p := &policy{Policy: rp, fullName: namespace + "/" + rp.Name, overrides: map[string][]ruleset.Limit{}, grants: map[string]*ruleset.Override{}}
	if err := checkPolicy(namespace, rp); err != nil {
		return nil, err
	}
	for _, m := range rp.Match {
		compiled, err := compileMatch(m)
		if err != nil {
			return nil, err
		}
		p.matches = append(p.matches, compiled)
	}
	for _, s := range rp.Sources {
		compiled, err := compileSource(s)
		if err != nil {
			return nil, err
		}
		p.sources = append(p.sources, compiled)
		if compiled.strip && !framing(compiled.header) {
			p.stripped = append(p.stripped, compiled.header)
		}
	}
	for i := range rp.Overrides {
		o := &rp.Overrides[i]
		for _, identity := range o.Identities {
			if o.UntilMillis != 0 {
				p.grants[identity] = o
				continue
			}
			if _, named := p.overrides[identity]; !named { // the first that names it holds
				p.overrides[identity] = o.Limits
			}
		}
	}
	return p, nil
}

// checkPolicy refuses words that this sidecar does not know: a newer
// operator's policy must not be obeyed by half.
func checkPolicy(namespace string, p *ruleset.Policy) error {
	switch p.Direction {
	case ruleset.Inbound, ruleset.Outbound:
	default:
		return fmt.Errorf("unknown direction %q", p.Direction)
	}
	switch p.IfMissing {
	case ruleset.IfMissingShared, ruleset.IfMissingBypass, ruleset.IfMissingReject:
	default:
		return fmt.Errorf("unknown ifMissing %q", p.IfMissing)
	}
	switch p.OnStoreFailure {
	case ruleset.OnStoreFailureLocal, ruleset.OnStoreFailureAllow, ruleset.OnStoreFailureDeny:
	default:
		return fmt.Errorf("unknown onStoreFailure %q", p.OnStoreFailure)
	}
	if p.Enforcers < 0 {
		return fmt.Errorf("enforcers are %d: at least 0", p.Enforcers)
	}
	if p.Service == "" {
		return fmt.Errorf("service is empty")
	}
	if len(p.Sources) == 0 {
		return fmt.Errorf("sources are empty: a newer operator's, which this sidecar does not know")
	}
	if w := p.Wait; w != nil && (w.MaxWaitMillis < 1 || w.MaxWaiting < 1) {
		return fmt.Errorf("wait: at most %d ms and %d requests: both must be at least 1", w.MaxWaitMillis, w.MaxWaiting)
	}
	return checkTakes(namespace, p)
}

// checkTakes refuses what the limiter would refuse of every request, which
// would then meet the policy's onStoreFailure.
func checkTakes(namespace string, p *ruleset.Policy) error {
	limits := [][]ruleset.Limit{p.Limits}
	for _, o := range p.Overrides {
		if len(o.Limits) > 0 { // none: unlimited
			limits = append(limits, o.Limits)
		}
	}
	for _, l := range limits {
		if err := limiter.Check(limiter.Take{Namespace: namespace, Service: p.Service, Limits: l}); err != nil {
			return err
		}
	}
	return nil
}

func compileMatch(m ruleset.Match) (match, error) {
	compiled := match{methods: m.Methods}
	for _, h := range m.Headers {
		header, err := compileHeaderMatch(h)
		if err != nil {
			return match{}, err
		}
		compiled.headers = append(compiled.headers, header)
	}
	if m.Path == nil {
		return compiled, nil
	}
	want := *m.Path
	compiled.path = &want
	switch want.Type {
	case ruleset.PathPrefix:
		want.Value = strings.TrimSuffix(normalPath(want.Value), "/")
	case ruleset.PathExact:
		want.Value = normalPath(want.Value)
	case ruleset.PathRegularExpression:
		re, err := compileWhole(want.Value)
		if err != nil {
			return match{}, fmt.Errorf("match path: %w", err)
		}
		compiled.regexp = re
	default:
		return match{}, fmt.Errorf("unknown path type %q", want.Type)
	}
	return compiled, nil
}

func (x *index) add(p *policy) {
	if len(p.Hosts) == 0 {
		x.any = append(x.any, p)
		return
	}
	if x.exact == nil {
		x.exact, x.wildcard = map[string][]*policy{}, map[string][]*policy{}
	}
	for _, pattern := range p.Hosts {
		if suffix, ok := strings.CutPrefix(pattern, "*."); ok {
			suffix = normalHost(suffix)
			x.wildcard[suffix] = append(x.wildcard[suffix], p)
			continue
		}
		host := normalHost(pattern)
		x.exact[host] = append(x.exact[host], p)
	}
}

// match appends to found the policies that hold for a request, in the
// Ruleset's order: for any of the readings of its path.
func (t *table) match(found []*policy, d ruleset.Direction, r *request) []*policy {
	index := t.of(d)
	if index.empty() {
		return found
	}
	found = index.byHost(found, normalHost(r.host), r.names)
	if !slices.ContainsFunc(found, func(p *policy) bool { return len(p.matches) > 0 }) {
		return found
	}
	paths := readings(r.path)
	for i, path := range paths {
		paths[i] = normalPath(path)
	}
	return slices.DeleteFunc(found, func(p *policy) bool {
		return !slices.ContainsFunc(paths, func(path string) bool { return p.matchesRequest(r, path) })
	})
}

// readings are the paths for which a server may take a request's: decoded,
// and where it has them, with encoded slashes that separate nothing (as
// net/http's ServeMux reads them) and without path parameters (as servlet
// containers do). The one that the policy's author thought of is among them.
func readings(raw string) []string {
	paths := []string{unescaped(raw)}
	if !strings.ContainsAny(raw, "%;") {
		return paths
	}
	spellings := []string{raw}
	if strings.Contains(raw, ";") {
		spellings = append(spellings, withoutParameters(raw))
	}
	for _, spelling := range spellings {
		kept := keptSlashes.Replace(spelling)
		for _, escaped := range []string{spelling, kept} {
			if path := unescaped(escaped); !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// unescaped decodes what is percent-encoded, and leaves as it is what begins
// like that and is not: some servers do so, and the others refuse it.
func unescaped(raw string) string {
	if !strings.Contains(raw, "%") {
		return raw
	}
	decoded := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] == '%' && i+2 < len(raw) {
			if c, err := strconv.ParseUint(raw[i+1:i+3], 16, 8); err == nil {
				decoded = append(decoded, byte(c))
				i += 2
				continue
			}
		}
		decoded = append(decoded, raw[i])
	}
	return string(decoded)
}

// keptSlashes makes what decodes to "%2F" of what decodes to a slash.
var keptSlashes = strings.NewReplacer("%2f", "%252F", "%2F", "%252F")

// withoutParameters cuts each segment of a path at its first semicolon.
func withoutParameters(raw string) string {
	segments := strings.Split(raw, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

// of are the policies of a direction.
func (t *table) of(d ruleset.Direction) *index {
	if d == ruleset.Inbound {
		return &t.inbound
	}
	return &t.outbound
}

func (x *index) empty() bool { return len(x.any)+len(x.exact)+len(x.wildcard) == 0 }

// byHost appends the policies that hold for a normalized host, or for one of
// the connection's.
func (x *index) byHost(found []*policy, host string, also names) []*policy {
	found = append(found, x.any...)
	if len(x.exact) == 0 && len(x.wildcard) == 0 {
		return found
	}
	found = x.naming(found, host)
	for _, name := range also {
		if name != "" && name != host {
			found = x.naming(found, name)
		}
	}
	if len(found) > 1 {
		slices.SortFunc(found, func(a, b *policy) int { return a.order - b.order })
		found = slices.Compact(found) // "api.example.com" and "*.example.com" both match
	}
	return found
}

// naming appends the policies that name the host, some of them twice.
func (x *index) naming(found []*policy, host string) []*policy {
	if len(host) > maxHostBytes {
		return found
	}
	found = append(found, x.exact[host]...)
	if len(x.wildcard) == 0 {
		return found
	}
	for rest := host; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return found
		}
		found = append(found, x.wildcard[after]...)
		rest = after
	}
}

func (p *policy) matchesRequest(r *request, normalizedPath string) bool {
	if len(p.matches) == 0 {
		return true
	}
	for i := range p.matches {
		m := &p.matches[i]
		if (len(m.methods) == 0 || slices.Contains(m.methods, r.method)) && m.matchesPath(normalizedPath) && m.matchesHeaders(r) {
			return true
		}
	}
	return false
}

func (m *match) matchesHeaders(r *request) bool {
	for i := range m.headers {
		if !m.headers[i].holds(r) {
			return false
		}
	}
	return true
}

func (m *match) matchesPath(p string) bool {
	switch {
	case m.path == nil:
		return true
	case m.regexp != nil:
		return m.regexp.MatchString(p)
	case m.path.Type == ruleset.PathExact:
		return p == m.path.Value
	default: // whole segments, as Gateway API's PathPrefix; "/" became ""
		rest, ok := strings.CutPrefix(p, m.path.Value)
		return ok && (rest == "" || rest[0] == '/')
	}
}

// maxHostBytes is the length of the longest name of RFC 1035 with its dot; no
// pattern matches a longer one.
const maxHostBytes = 254

// normalHost is the host of an authority: lower case, without port, brackets
// and trailing dot.
func normalHost(authority string) string {
	host := authority
	if strings.HasPrefix(host, "[") {
		if literal, _, ok := strings.Cut(host[1:], "]"); ok {
			host = literal
		}
		if addr, err := netip.ParseAddr(host); err == nil {
			return addr.String() // one address has one spelling
		}
	} else if name, _, ok := strings.Cut(host, ":"); ok {
		// Of "h:80:80" too: servers have been seen to look no further.
		if addr, err := netip.ParseAddr(host); err == nil {
			return addr.String()
		}
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// normalPath resolves dot segments and repeated slashes in a percent-decoded
// path. A trailing slash stays, so that Exact and RegularExpression can tell
// /v1 from /v1/; to Prefix they are the same. What has no path (CONNECT,
// OPTIONS *) is "/".
func normalPath(p string) string {
	if p == "" || p == "*" {
		return "/"
	}
	if p[0] != '/' {
		p = "/" + p
	}
	clean := path.Clean(p)
	if clean == "/" {
		return clean
	}
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") {
		if len(clean)+1 == len(p) && p[:len(clean)] == clean {
			return p // the usual case allocates nothing
		}
		return clean + "/"
	}
	return clean
}
