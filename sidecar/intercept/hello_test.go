package intercept

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// helloOf is what a real client sends first.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	recorder := &recorder{}
	_ = tls.Client(recorder, config).HandshakeContext(context.Background())
	if len(recorder.written) == 0 {
		t.Fatal("the client sent nothing")
	}
	return recorder.written
}

// recorder is a connection whose other end is silent.
type recorder struct {
	net.Conn
	written []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.written = append(r.written, p...)
	return len(p), nil
}
func (r *recorder) Read([]byte) (int, error) { return 0, io.EOF }
func (r *recorder) Close() error             { return nil }

// reference is how crypto/tls reads a ClientHello; nil when it refuses.
func reference(data []byte) *tls.ClientHelloInfo {
	var info *tls.ClientHelloInfo
	_ = tls.Server(&replay{data: data}, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		info = hello
		return nil, errors.New("seen")
	}}).HandshakeContext(context.Background())
	return info
}

type replay struct {
	recorder
	data []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// fragmented is a ClientHello of one record in records of up to size bytes.
func fragmented(record []byte, size int) []byte {
	var out []byte
	for fragment := range slices.Chunk(record[recordHead:], size) {
		out = append(out, record[0], record[1], record[2], byte(len(fragment)>>8), byte(len(fragment)))
		out = append(out, fragment...)
	}
	return out
}

func TestReadHelloReadsWhatClientsSay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		config *tls.Config
		want   Hello
	}{
		{"both versions of HTTP", &tls.Config{ServerName: host, NextProtos: []string{"h2", "http/1.1"}},
			Hello{ServerName: host, ALPN: []string{"h2", "http/1.1"}, MaxVersion: tls.VersionTLS13}},
		{"the client's order", &tls.Config{ServerName: host, NextProtos: []string{"http/1.1", "x", "h2"}},
			Hello{ServerName: host, ALPN: []string{"http/1.1", "x", "h2"}, MaxVersion: tls.VersionTLS13}},
		{"no ALPN", &tls.Config{ServerName: host}, Hello{ServerName: host, MaxVersion: tls.VersionTLS13}},
		{"an older client", &tls.Config{ServerName: host, MaxVersion: tls.VersionTLS12},
			Hello{ServerName: host, MaxVersion: tls.VersionTLS12}},
		{"a very old one", &tls.Config{ServerName: host, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10},
			Hello{ServerName: host, MaxVersion: tls.VersionTLS10}},
		{"upper case", &tls.Config{ServerName: "API.Provider.test"}, Hello{ServerName: host, MaxVersion: tls.VersionTLS13}},
		{"an address is no name", &tls.Config{ServerName: "192.0.2.1"}, Hello{MaxVersion: tls.VersionTLS13}},
		{"no name", &tls.Config{InsecureSkipVerify: true}, Hello{MaxVersion: tls.VersionTLS13}},
	} {
		whole := helloOf(t, c.config)
		for _, size := range []int{maxRecord, 1000, 7, 3, 1} {
			data := append(fragmented(whole, size), "what follows"...)
			before := bytes.Clone(data)
			got, status := ReadHello(data)
			if status != Complete || !same(got, c.want) {
				t.Errorf("%s, in records of %d bytes: %+v (status %d), want %+v", c.reason, size, got, status, c.want)
			}
			if !bytes.Equal(data, before) {
				t.Errorf("%s: reading changed the data", c.reason)
			}
		}
		for n := range whole {
			if _, status := ReadHello(whole[:n]); status != NeedMore {
				t.Fatalf("%s: after %d of %d bytes the status is %d, want NeedMore", c.reason, n, len(whole), status)
			}
		}
		if info := reference(whole); info == nil || info.ServerName != "" && !strings.EqualFold(info.ServerName, c.want.ServerName) || !slices.Equal(info.SupportedProtos, c.want.ALPN) {
			t.Errorf("%s: crypto/tls reads %+v, want %+v", c.reason, info, c.want)
		}
	}
}

func same(a, b Hello) bool {
	return a.ServerName == b.ServerName && slices.Equal(a.ALPN, b.ALPN) &&
		a.MaxVersion == b.MaxVersion && a.ECH == b.ECH && a.EarlyData == b.EarlyData
}

// What real clients sent, for api.provider.test.
func TestReadHelloOfOtherClients(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]Hello{
		"curl":      {ServerName: host, ALPN: []string{"h2", "http/1.1"}, MaxVersion: tls.VersionTLS13},
		"openssl":   {ServerName: host, MaxVersion: tls.VersionTLS13},
		"openssl12": {ServerName: host, ALPN: []string{"http/1.1"}, MaxVersion: tls.VersionTLS12},
		"python":    {ServerName: host, ALPN: []string{"http/1.1"}, MaxVersion: tls.VersionTLS13},
		"node":      {ServerName: host, ALPN: []string{"http/1.1"}, MaxVersion: tls.VersionTLS13},
		"java":      {ServerName: host, ALPN: []string{"h2", "http/1.1"}, MaxVersion: tls.VersionTLS13},
		"go-ech":    {ServerName: "outer.provider.test", ALPN: []string{"h2"}, MaxVersion: tls.VersionTLS13, ECH: true},
		"early":     {ServerName: host, MaxVersion: tls.VersionTLS13, EarlyData: true},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", "hellos", file))
		if err != nil {
			t.Error(err)
			continue
		}
		if got, status := ReadHello(data); status != Complete || !same(got, want) {
			t.Errorf("%s: %+v (status %d), want %+v", file, got, status, want)
		}
	}
}

func TestReadHelloRefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	whole := helloOf(t, &tls.Config{ServerName: host})
	changed := func(change func([]byte)) []byte {
		data := bytes.Clone(whole)
		change(data)
		return data
	}
	for _, c := range []struct {
		reason string
		data   []byte
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n")},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.2\r\n")},
		{"SSL 2.0", []byte{0x80, 0x2e, 0x01, 0x03, 0x01}},
		{"an alert", []byte{21, 3, 1, 0, 2, 1, 0}},
		{"a version that is none", []byte{22, 4}},
		{"an empty record", []byte{22, 3, 1, 0, 0}},
		{"a record too long", []byte{22, 3, 1, 0x40, 1}},
		{"a ServerHello", changed(func(b []byte) { b[5] = 2 })},
		{"a message longer than allowed", changed(func(b []byte) { b[6] = 2 })},
		{"a message shorter than its fields", changed(func(b []byte) { b[8] -= 10 })},
		{"a session of 33 bytes", changed(func(b []byte) { b[43] = 33 })},
	} {
		if got, status := ReadHello(c.data); status != NotTLS {
			t.Errorf("%s: %+v (status %d), want NotTLS", c.reason, got, status)
		}
	}
}

func TestReadHelloIsBounded(t *testing.T) {
	t.Parallel()
	// A message of 64 KiB in records of one byte would be twelve times that.
	endless := []byte{22, 3, 1, 0, 1, 1}
	endless = append(endless, 22, 3, 1, 0, 3, 0, 0xff, 0)
	for len(endless) < 2*MaxHello {
		endless = append(endless, 22, 3, 1, 0, 1, 0)
	}
	if _, status := ReadHello(endless[:MaxHello-1]); status != NeedMore {
		t.Errorf("before %d bytes the status is %d, want NeedMore", MaxHello, status)
	}
	for _, n := range []int{MaxHello, len(endless)} {
		if _, status := ReadHello(endless[:n]); status != NotTLS {
			t.Errorf("after %d bytes without an end the status is %d, want NotTLS", n, status)
		}
	}
}

func TestReadHelloHoldsExtensionsToTheirForm(t *testing.T) {
	t.Parallel()
	name := "\x00\x00\x00\x08\x00\x06\x00\x00\x03a.b"
	for _, c := range []struct {
		reason     string
		extensions string
		want       Status
		name       string
	}{
		{"a name", name, Complete, "a.b"},
		{"the same extension twice", name + name, NotTLS, ""},
		{"two names", "\x00\x00\x00\x0c\x00\x0a\x00\x00\x02ab\x00\x00\x02cd", NotTLS, ""},
		{"an empty name", "\x00\x00\x00\x05\x00\x03\x00\x00\x00", NotTLS, ""},
		{"bytes behind the list of names", "\x00\x00\x00\x09\x00\x06\x00\x00\x03a.b!", NotTLS, ""},
		{"a dot at the end", "\x00\x00\x00\x07\x00\x05\x00\x00\x02a.", Complete, "a"},
		{"two dots at the end", "\x00\x00\x00\x08\x00\x06\x00\x00\x03a..", Complete, ""},
		{"a dot first", "\x00\x00\x00\x07\x00\x05\x00\x00\x02.a", Complete, ""},
		{"a NUL within", "\x00\x00\x00\x08\x00\x06\x00\x00\x03a\x00b", Complete, ""},
		{"a wildcard", "\x00\x00\x00\x08\x00\x06\x00\x00\x03*.b", Complete, ""},
		{"digits at the end are a name all the same", "\x00\x00\x00\x08\x00\x06\x00\x00\x03a.1", Complete, "a.1"},
		{"an IPv4 address", "\x00\x00\x00\x0c\x00\x0a\x00\x00\x071.2.3.4", Complete, ""},
		{"an empty list of protocols", "\x00\x10\x00\x02\x00\x00", NotTLS, ""},
		{"an empty protocol", "\x00\x10\x00\x03\x00\x01\x00", NotTLS, ""},
		{"no versions", "\x00\x2b\x00\x01\x00", NotTLS, ""},
		{"half a version", "\x00\x2b\x00\x02\x01\x03", NotTLS, ""},
		{"an extension cut short", "\x00\x2b\x00\x05\x02\x03", NotTLS, ""},
	} {
		body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00" +
			string([]byte{byte(len(c.extensions) >> 8), byte(len(c.extensions))}) + c.extensions
		message := "\x01\x00" + string([]byte{byte(len(body) >> 8), byte(len(body))}) + body
		record := "\x16\x03\x01" + string([]byte{byte(len(message) >> 8), byte(len(message))}) + message
		got, status := ReadHello([]byte(record))
		if status != c.want || got.ServerName != c.name {
			t.Errorf("%s: name %q, status %d; want %q, %d", c.reason, got.ServerName, status, c.name, c.want)
		}
	}
}

// FuzzReadHello holds that more bytes change no verdict, that nothing is
// changed, and that crypto/tls agrees with what both read.
func FuzzReadHello(f *testing.F) {
	for _, config := range []*tls.Config{
		{ServerName: host, NextProtos: []string{"h2", "http/1.1"}},
		{ServerName: host, MaxVersion: tls.VersionTLS12},
		{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
	} {
		whole := helloOf(f, config)
		f.Add(whole)
		f.Add(fragmented(whole, 100))
	}
	files, err := filepath.Glob(filepath.Join("testdata", "hellos", "*"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no corpus: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		got, status := ReadHello(data)
		if !bytes.Equal(data, before) {
			t.Fatal("reading changed the data")
		}
		for _, n := range []int{0, 1, 2, 4, 5, 6, 9, len(data) / 2, len(data) - 1} {
			if n < 0 || n > len(data) {
				continue
			}
			if part, early := ReadHello(data[:n]); early != NeedMore && (early != status || !same(part, got)) {
				t.Fatalf("after %d bytes %d %+v, after %d %d %+v", n, early, part, len(data), status, got)
			}
		}
		info := reference(data)
		if info == nil || status != Complete {
			return
		}
		if name := info.ServerName; got.ServerName != strings.ToLower(name) && (got.ServerName != "" || serverName([]byte(name)) != "") {
			t.Errorf("ServerName %q, crypto/tls says %q", got.ServerName, name)
		}
		if !slices.Equal(got.ALPN, info.SupportedProtos) {
			t.Errorf("ALPN %q, crypto/tls says %q", got.ALPN, info.SupportedProtos)
		}
		newest := uint16(0)
		for _, v := range info.SupportedVersions {
			if tls.VersionTLS10 <= v && v <= tls.VersionTLS13 {
				newest = max(newest, v)
			}
		}
		if !slices.Contains(info.Extensions, extVersions) {
			newest = min(newest, tls.VersionTLS12) // as crypto/tls serves it, though it says otherwise
		}
		if got.MaxVersion != newest {
			t.Errorf("MaxVersion %x, crypto/tls says %x", got.MaxVersion, newest)
		}
	})
}
