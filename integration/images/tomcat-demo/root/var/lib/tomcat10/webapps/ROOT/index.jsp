<%@ page contentType="text/html; charset=UTF-8" import="java.math.*,java.time.*,java.util.*,java.util.stream.*" %>
<%!
  static class Item {
    final String title;
    final String shop;
    final BigDecimal price;

    Item(int id) {
      title = "Item " + id;
      shop = "shop-" + id % 50;
      price = BigDecimal.valueOf(id * 7919L % 100_000, 2);
    }
  }

  private List<Item> items;
  private Instant started;

  @Override
  public void jspInit() {
    started = Instant.now();
    items = IntStream.range(0, 20_000).mapToObj(Item::new).collect(Collectors.toList());
    System.out.println("ready");
  }
%>
<!DOCTYPE html>
<html>
<head><title>Catalogue</title></head>
<body>
<h1>Catalogue</h1>
<p><%= items.size() %> items, loaded <%= started %></p>
<table>
<tr><th>Shop</th><th>Items</th><th>Mean price</th></tr>
<%
  Map<String, DoubleSummaryStatistics> shops = items.stream().collect(Collectors.groupingBy(
      item -> item.shop, TreeMap::new, Collectors.summarizingDouble(item -> item.price.doubleValue())));
  for (var shop : shops.entrySet()) {
%>
<tr><td><%= shop.getKey() %></td><td><%= shop.getValue().getCount() %></td>
<td><%= String.format(Locale.ROOT, "%.2f", shop.getValue().getAverage()) %></td></tr>
<% } %>
</table>
<p><a href="basket.jsp">Basket</a></p>
</body>
</html>
