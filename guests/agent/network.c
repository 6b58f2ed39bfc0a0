// SPDX-License-Identifier: GPL-2.0-only
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "reply.h"

static void reply_hardware_address(const struct sockaddr_ll *link)
{
	const unsigned char *a = link->sll_addr;
	char text[18];

	if (link->sll_halen != 6)
		return;
	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x",
		 a[0], a[1], a[2], a[3], a[4], a[5]);
	reply_raw(", \"hardware-address\": ");
	reply_string(text);
}

static int prefix_length(const unsigned char *mask, size_t length)
{
	int bits = 0;

	for (size_t i = 0; mask && i < length; i++)
		bits += __builtin_popcount(mask[i]);
	return bits;
}

static void reply_address(const struct ifaddrs *entry)
{
	int family = entry->ifa_addr->sa_family;
	bool v4 = family == AF_INET;
	size_t offset = v4 ? offsetof(struct sockaddr_in, sin_addr) :
			     offsetof(struct sockaddr_in6, sin6_addr);
	const unsigned char *mask = (const unsigned char *)entry->ifa_netmask;
	char text[INET6_ADDRSTRLEN];

	inet_ntop(family, (const char *)entry->ifa_addr + offset, text,
		  sizeof(text));
	reply_raw("{\"ip-address-type\": ");
	reply_string(v4 ? "ipv4" : "ipv6");
	reply_raw(", \"ip-address\": ");
	reply_string(text);
	reply_raw(", \"prefix\": ");
	reply_integer(prefix_length(mask ? mask + offset : NULL, v4 ? 4 : 16));
	reply_raw("}");
}

static void reply_addresses(const struct ifaddrs *all, const char *interface)
{
	const char *separator = "";

	reply_raw(", \"ip-addresses\": [");
	for (; all; all = all->ifa_next) {
		if (!all->ifa_addr || strcmp(all->ifa_name, interface) ||
		    (all->ifa_addr->sa_family != AF_INET &&
		     all->ifa_addr->sa_family != AF_INET6))
			continue;
		reply_raw(separator);
		reply_address(all);
		separator = ", ";
	}
	reply_raw("]");
}

void guest_network_get_interfaces(const struct json *arguments)
{
	const char *separator = "";
	struct ifaddrs *all, *entry;

	(void)arguments;
	if (getifaddrs(&all) < 0) {
		reply_error("listing the network interfaces: %s",
			    strerror(errno));
		return;
	}
	reply_raw("[");
	/* The kernel gives each interface one packet-level entry. */
	for (entry = all; entry; entry = entry->ifa_next) {
		if (!entry->ifa_addr || entry->ifa_addr->sa_family != AF_PACKET)
			continue;
		reply_raw(separator);
		reply_raw("{\"name\": ");
		reply_string(entry->ifa_name);
		reply_hardware_address(
			(const struct sockaddr_ll *)entry->ifa_addr);
		reply_addresses(all, entry->ifa_name);
		reply_raw("}");
		separator = ", ";
	}
	reply_raw("]");
	freeifaddrs(all);
}
