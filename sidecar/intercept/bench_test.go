package intercept

import (
	"context"
	"crypto/tls"
	"io"
	"syscall"
	"testing"
	"time"
)

// What a connection costs with interception and without: a handshake and a
// byte there and back, with a new session and with one resumed.
func BenchmarkConnection(b *testing.B) {
	operator := newAuthority(b, "weir")
	p := &provider{authority: newAuthority(b, "Provider's authority")}
	l := tls.NewListener(listen(b), &tls.Config{Certificates: []tls.Certificate{p.served(host)}})
	p.addr = l.Addr().String()
	go echo(l)
	intercepted := build(b, operator, p, []string{host})
	relayed := build(b, operator, p, nil)
	for _, way := range []struct {
		name, addr string
		authority  *authority
		done       *house
	}{
		{"direct", p.addr, p.authority, nil},
		{"relayed", relayed.addr, p.authority, relayed},
		{"intercepted", intercepted.addr, operator, intercepted},
	} {
		for _, resumed := range []bool{false, true} {
			name := way.name + "/full"
			config := &tls.Config{ServerName: host, RootCAs: way.authority.pool()}
			if resumed {
				name, config.ClientSessionCache = way.name+"/resumed", tls.NewLRUClientSessionCache(0)
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				defer reportCPU(b, cpu())
				for b.Loop() {
					once(b, way.addr, config)
					if way.done != nil {
						<-way.done.results
					}
				}
			})
		}
	}
}

// cpu is the time that this process, clients and host included, has used of it.
func cpu() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func reportCPU(b *testing.B, before time.Duration) {
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func once(b *testing.B, addr string, config *tls.Config) {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	_ = conn.Close()
}

func BenchmarkReadHello(b *testing.B) {
	whole := helloOf(b, &tls.Config{ServerName: host, NextProtos: []string{"h2", "http/1.1"}})
	for name, data := range map[string][]byte{"one record": whole, "three records": fragmented(whole, len(whole)/2)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, status := ReadHello(data); status != Complete {
					b.Fatal("not read")
				}
			}
		})
	}
}

// What a leaf costs the sidecar: a key, a request, and reading the answer.
func BenchmarkLeaf(b *testing.B) {
	operator := newAuthority(b, "weir")
	h := build(b, operator, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.leaves.request(context.Background(), host); err != nil {
			b.Fatal(err)
		}
	}
}
