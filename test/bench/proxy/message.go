package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// users is the number of callers that the client plays, in turn.
const users = 1000

// request is a GET as a browser's: ten header fields and the caller's name.
const request = "GET /v1/playlists/37i9dQZF1DXcBWIGoYBM5M/tracks?limit=20 HTTP/1.1\r\n" +
	"Host: bondhu.example\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101\r\n" +
	"Accept: application/json\r\n" +
	"Accept-Language: en-GB,en;q=0.7\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Referer: https://bondhu.example/\r\n" +
	"Cookie: session=1f3c9a77d2\r\n" +
	"Cache-Control: no-cache\r\n" +
	"X-Request-ID: 5f0c6a2e9b7d\r\n" +
	"Priority: u=1, i\r\n" +
	"X-User-ID: user-%04d\r\n\r\n"

// requests has one for each user.
func requests() [][]byte {
	all := make([][]byte, users)
	for i := range all {
		all[i] = fmt.Appendf(nil, request, i)
	}
	return all
}

// body is what the application answers with: 200 bytes.
var body = append(bytes.Repeat([]byte("x"), 199), '\n')

// response of the application, to every request.
var response = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\n"+
	"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"+
	"Server: application\r\n"+
	"Content-Type: text/plain; charset=utf-8\r\n"+
	"Cache-Control: no-store\r\n"+
	"Content-Length: %d\r\n\r\n%s", len(body), body)

// Statuses that are expected.
const (
	statusOK              = 200
	statusTooManyRequests = 429
)

// answer is a whole response.
type answer struct {
	status int
	body   []byte
	length int // bytes of it all
}

// parse reads the response at the beginning of got. Its length is 0 when bytes
// are missing. It is an error when the response is none that is framed by
// Content-Length, or ends the connection.
func parse(got []byte) (answer, error) {
	end := bytes.Index(got, []byte("\r\n\r\n"))
	if end < 0 {
		return answer{}, nil
	}
	line, fields, _ := bytes.Cut(got[:end+2], []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return answer{}, fmt.Errorf("%q is not a status line of HTTP/1.1", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return answer{}, fmt.Errorf("%q has no status", line)
	}
	size, err := bodySize(fields)
	if err != nil {
		return answer{}, err
	}
	length := end + 4 + size
	if len(got) < length {
		return answer{}, nil
	}
	return answer{status: status, body: got[end+4 : length], length: length}, nil
}

// bodySize reads the header's fields.
func bodySize(fields []byte) (int, error) {
	size := -1
	for len(fields) > 0 {
		var line []byte
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			number, err := strconv.ParseUint(string(value), 10, 16)
			if err != nil || size >= 0 {
				return 0, fmt.Errorf("Content-Length %q: one number is expected", value)
			}
			size = int(number)
		case bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")):
			return 0, errors.New("the response ends the connection, which is to be kept")
		}
	}
	if size < 0 {
		return 0, errors.New("the response has no Content-Length")
	}
	return size, nil
}
