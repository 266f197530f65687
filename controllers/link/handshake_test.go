package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// BenchmarkHandshake is what a sidecar's handshake costs both sides, when it is
// asked for a certificate, which it has not, and when not.
func BenchmarkHandshake(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	for name, asks := range map[string]tls.ClientAuthType{"not asked": tls.NoClientCert, "asked": tls.RequestClientCert} {
		b.Run(name, func(b *testing.B) {
			server := &tls.Config{
				Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}, MinVersion: tls.VersionTLS13, ClientAuth: asks,
			}
			client := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
			var bytes int64
			b.ReportAllocs()
			for b.Loop() {
				here, there := net.Pipe()
				counted := &counting{Conn: here, bytes: &bytes}
				served := make(chan error, 1)
				go func() { served <- tls.Server(there, server).Handshake() }()
				conn := tls.Client(counted, client)
				if err := conn.Handshake(); err != nil {
					b.Fatal(err)
				}
				go func() { _, _ = conn.Read(make([]byte, 1)) }() // the server's ticket
				if err := <-served; err != nil {
					b.Fatal(err)
				}
				_ = here.Close()
				_ = there.Close()
			}
			b.ReportMetric(float64(bytes)/float64(b.N), "sent-bytes/op")
		})
	}
}

type counting struct {
	net.Conn
	bytes *int64
}

func (c *counting) Write(p []byte) (int, error) {
	*c.bytes += int64(len(p))
	return c.Conn.Write(p)
}
