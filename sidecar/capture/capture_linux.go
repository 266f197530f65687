package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Install writes the table, in place of one that is there: the three steps are
// one transaction, so that there is never half a table, and an init container
// that runs again does not fail. It needs NET_ADMIN.
func Install(c Config) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("capturing: %w", err)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening a netlink socket for nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: Table}
	conn.AddTable(table) // or the deletion fails where there is none
	conn.DelTable(table)
	conn.AddTable(table)
	if err := prerouting(conn, table, c); err != nil {
		return err
	}
	if err := output(conn, table, c); err != nil {
		return err
	}
	err = conn.Flush()
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("writing the nftables table %q: the container needs the capability NET_ADMIN: %w", Table, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("writing the nftables table %q: the node's kernel needs nf_tables with nat and redirect "+
			"(modules nf_tables, nft_chain_nat, nft_redir): %w", Table, err)
	case err != nil:
		return fmt.Errorf("writing the nftables table %q: %w", Table, err)
	}
	return nil
}

// prerouting captures what arrives from other hosts.
func prerouting(conn *nftables.Conn, table *nftables.Table, c Config) error {
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	skip(conn, chain, expr.MetaKeyIIFNAME, loopback)
	return redirect(conn, chain, c.inbound(), c.InboundPort)
}

// output captures what the pod's processes send to other hosts.
func output(conn *nftables.Conn, table *nftables.Table, c Config) error {
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "output", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	skip(conn, chain, expr.MetaKeySKUID, binaryutil.NativeEndian.PutUint32(c.UID))
	skip(conn, chain, expr.MetaKeyOIFNAME, loopback)
	return redirect(conn, chain, c.outbound(), c.OutboundPort)
}

// loopback is the name of its interface, padded as the kernel compares it.
var loopback = append([]byte("lo"), make([]byte, unix.IFNAMSIZ-len("lo"))...)

// skip leaves alone what has this meta value.
func skip(conn *nftables.Conn, chain *nftables.Chain, key expr.MetaKey, value []byte) {
	conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
		&expr.Verdict{Kind: expr.VerdictReturn},
	}})
}

// redirect leads new TCP connections to one of the ports to another port of
// this host.
func redirect(conn *nftables.Conn, chain *nftables.Chain, ports []uint16, to uint16) error {
	if len(ports) == 0 {
		return nil
	}
	captured := &nftables.Set{Table: chain.Table, Anonymous: true, Constant: true, KeyType: nftables.TypeInetService}
	elements := make([]nftables.SetElement, 0, len(ports))
	for _, port := range ports {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(port)})
	}
	if err := conn.AddSet(captured, elements); err != nil {
		return fmt.Errorf("encoding the captured ports %v: %w", ports, err)
	}
	conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		// The destination port: bytes 2 and 3 of the TCP header (RFC 9293, 3.1).
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: captured.Name, SetID: captured.ID},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to)},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	return nil
}

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and
// IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

// OriginalDestination is where a captured connection was going. It is
// ErrNotCaptured for a connection that was made to the sidecar itself.
func OriginalDestination(conn net.Conn) (netip.AddrPort, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("finding the original destination: a %T is not a socket", conn)
	}
	tcp, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("finding the original destination: %v is not a TCP address", conn.LocalAddr())
	}
	local := tcp.AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port())
	raw, err := socket.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("finding the original destination: %w", err)
	}
	var destination netip.AddrPort
	var failed error
	err = raw.Control(func(fd uintptr) { destination, failed = originalDestination(int(fd), local.Addr().Is4()) })
	if err = errors.Join(err, failed); err != nil {
		// The kernel tracks no connection in a namespace that has no NAT.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT) {
			return netip.AddrPort{}, ErrNotCaptured
		}
		return netip.AddrPort{}, fmt.Errorf("finding the original destination: getsockopt SO_ORIGINAL_DST: %w", err)
	}
	if destination.Addr().WithZone("") == local.Addr() && destination.Port() == local.Port() {
		return netip.AddrPort{}, ErrNotCaptured
	}
	return destination, nil
}

// originalDestination asks the kernel's connection tracking. The two structures
// that x/sys can fetch are large enough for a sockaddr_in and a sockaddr_in6.
func originalDestination(fd int, v4 bool) (netip.AddrPort, error) {
	if v4 {
		// struct sockaddr_in: family (2 bytes), port (2), address (4).
		got, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}, err
		}
		raw := got.Multiaddr
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[4:8])), uint16(raw[2])<<8|uint16(raw[3])), nil
	}
	got, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := binaryutil.BigEndian.Uint16(binaryutil.NativeEndian.PutUint16(got.Addr.Port))
	address := netip.AddrFrom16(got.Addr.Addr)
	if got.Addr.Scope_id != 0 { // a link-local address, which nobody can dial without its interface
		address = address.WithZone(strconv.FormatUint(uint64(got.Addr.Scope_id), 10))
	}
	return netip.AddrPortFrom(address, port), nil
}
